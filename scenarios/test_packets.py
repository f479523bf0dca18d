"""Packets at XDP ingress of both hosts: stamps, ports, flags and bytes, against what both applications know.

X1, L1, L3, F3 and S6 are rows of the corpus of known wrong numbers: see README.md.
"""

import pytest

from lab.demo.conversation import Conversation
from lab.units import MS

both_versions = pytest.mark.parametrize("version", [4, 6])
PACKETS = {"probes": ["packets"]}


@both_versions
@pytest.mark.parametrize("closer", ["client", "server", "both"])
def test_conversation(lab, version, closer):
    """SYN, data and FIN of each side arrive inside the calls that cause and report them; the bytes add up exactly."""
    conversation = Conversation(closer=closer, exchanges=3, hold_ns=10 * MS)
    lab.judge("packets", lab.converse(conversation, version=version, **PACKETS))
