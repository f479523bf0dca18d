"""Whose XDP program an interface has: name and id, how it is attached, and the processes that hold it."""

from contextlib import suppress
from pathlib import Path

from lab.ebpf.interface import Device
from lab.linux import bpf
from lab.linux.syscalls import owned


def xdp_owner(device: Device) -> str:
    """Return a description of the interface's XDP program, for a sentence."""
    attached = device.inside(lambda: _attached(device.ifindex))
    programs = [_description(prog_id, mode, device.ifindex) for prog_id, mode in attached]
    return " and ".join(programs) or "of an unknown owner"


def _attached(ifindex: int) -> list[tuple[int, str]]:
    """Return the ids of an interface's XDP programs in the calling thread's namespace, each with its mode."""
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        xdp = netlink.get_links(ifindex)[0].get_attr("IFLA_XDP")
    ids = {mode: xdp.get_attr(f"IFLA_XDP_{name}PROG_ID") for mode, name in (("native", "DRV_"), ("generic", "SKB_"))}
    return [(prog_id, mode) for mode, prog_id in ids.items() if prog_id]


def _description(prog_id: int, mode: str, ifindex: int) -> str:
    name = ""
    with suppress(OSError), owned(bpf.prog_open(prog_id)) as fd:
        name = f"`{bpf.prog_runs(fd).name}` "
    link = bpf.xdp_link(prog_id, ifindex)
    holders = [f"{pid} ({_comm(pid)})" for pid in _processes() if prog_id in _programs_of(pid)]
    how = "by netlink" if link is None else f"by BPF link {link}"
    held = f"held by process {', '.join(holders)}" if holders else "held by no process"
    return f"{name}(id {prog_id}, {mode}, attached {how}, {held})"


def _processes() -> list[int]:
    return sorted(int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())


def _programs_of(pid: int) -> set[int]:
    try:
        return bpf.prog_ids_of_process(pid)
    except OSError:  # the process has ended
        return set()


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").rstrip("\n").replace("\n", "\\n")
    except OSError:
        return "?"
