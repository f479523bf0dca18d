"""The probe `flows`, changed: made small, or wrong on purpose; and one host's part of its totals."""

from support import mutants


def changed(tmp_path, *changes):
    """Change the probe's source and load it."""
    return mutants.changed(tmp_path, "flows", *changes)


def counts_skbs(tmp_path):
    """Load a variant that counts as many known tools do: one packet for each skb, as long as the skb."""
    return changed(tmp_path, (r"if \(ctx->gso_size\)", "if (0)"), (r"if \(ctx->wire_len > to->bytes\)", "if (0)"))


def of(totals, host, direction):
    """Rows of one host's interface in one direction."""
    return totals[(totals["ifindex"] == host.ifindex) & (totals["direction"] == direction)]
