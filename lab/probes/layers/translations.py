"""Join the two sides of an address translation (NAT): a segment that leaves one host arrives at the other renamed.

Translators change addresses and ports, and no sequence numbers. So two segments with the same sequence number, length
and TCP timestamp, one that left a host and one that arrived at another, are the same one.
"""

import numpy as np
import numpy.typing as npt

from lab.arrays import Events
from lab.packet import ACK, SYN
from lab.probes.layers.byte_streams import mixed
from lab.probes.layers.stages import At, Ports, are_servers

_MOST_FLOWS = 65_536
_ENDS = ("addr", "port")


class Translations:
    """The translated connections to servers with these ports. Their points get the addresses that the client uses."""

    def __init__(self, ports: Ports) -> None:
        self.count = 0
        self._ports = ports
        self._clients: dict[int, np.void] = {}  # by the flow that the server sees: a segment that the client sent

    def undo(self, events: Events) -> Events:
        """Return the points with the addresses that the client uses, wherever a translation is known by now."""
        if len(events) and (events["netns"] != events["netns"][0]).any():
            self._find(events)
        if not self._clients:
            return events
        events = events.copy()
        for source, destination in (("s", "d"), ("d", "s")):
            flow = _flow(events, source, destination)
            for seen in np.intersect1d(flow, np.array(list(self._clients), np.uint64)).tolist():
                client, chosen = self._clients[seen], flow == seen
                for end in _ENDS:
                    events[f"{source}{end}"][chosen] = client[f"s{end}"]
                    events[f"{destination}{end}"][chosen] = client[f"d{end}"]
        return events

    def _find(self, events: Events) -> None:
        """Take note of the flows whose segments left one host and arrived at the other one with other addresses."""
        opens = (events["flags"] & (SYN | ACK)) == SYN
        known = are_servers(events["dport"], events["sport"], self._ports) & (
            opens | (events["length"] > 0) & (events["tsval"] > 0)
        )
        left, came = (events[known & (events["at"] == at)] for at in (At.DEVICE_OUT, At.DEVICE_IN))
        if not len(left) or not len(came):
            return
        names = [mixed(it["seq"], it["length"], it["tsval"]) for it in (left, came)]
        order = np.argsort(names[1], kind="stable")
        found = order[np.minimum(np.searchsorted(names[1][order], names[0]), len(came) - 1)]
        flow = _flow(came, "s", "d")
        same = names[1][found] == names[0]
        renamed = same & (came["netns"][found] != left["netns"]) & (flow[found] != _flow(left, "s", "d"))
        for seen, client in zip(flow[found[renamed]].tolist(), left[renamed], strict=True):
            self.count += seen not in self._clients
            self._clients[seen] = client
        while len(self._clients) > _MOST_FLOWS:
            del self._clients[next(iter(self._clients))]


def _flow(events: Events, source: str, destination: str) -> npt.NDArray[np.uint64]:
    """Return a hash of the flow of each point, in the direction from one end to the other."""
    words = (
        np.ascontiguousarray(events[f"{end}addr"]).view(np.uint32).reshape(-1, 4).T for end in (source, destination)
    )
    return mixed(*next(words), events[f"{source}port"], *next(words), events[f"{destination}port"])
