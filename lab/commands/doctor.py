"""Show what eBPF probes can do on this machine.

Tries each capability, shows the attach point chosen for each observation, and
reports whether the suite can run.

Exit status: 0 if the suite can run here, 1 if something is missing.
"""

import argparse
import json
from dataclasses import asdict

from lab.doctor.capabilities import Capability, Choice, choices, examine, remedies
from lab.output.text import tabulated


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")


def run(args: argparse.Namespace) -> int:
    """Try the capabilities and print the findings."""
    capabilities = examine()
    chosen = choices(capabilities)
    missing = remedies(capabilities)
    if args.json:
        found = {"capabilities": [asdict(row) for row in capabilities], "choices": [asdict(row) for row in chosen]}
        print(json.dumps(found, indent=2))
    else:
        _print_tables(capabilities, chosen)
        closing = f"The suite cannot run here: {'; '.join(missing)}." if missing else "The suite can run here."
        print(f"\n{closing}")
    return 1 if missing else 0


def _print_tables(capabilities: list[Capability], chosen: list[Choice]) -> None:
    """Print both tables, at most 100 columns wide."""
    rows = [(row.name, "yes" if row.available else "no", row.detail) for row in capabilities]
    print(tabulated(rows, ("capability", "works", "found, or why not"), maxcolwidths=[30, 5, 59]))
    print()
    attached = [(row.observation, row.chosen, row.refused) for row in chosen]
    headers = ("observation", "chosen", "better, but refused")
    print(tabulated(attached, headers, maxcolwidths=[26, 32, 36]))
