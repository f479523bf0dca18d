"""Random conversations with fixed seeds: every value of every probe must be consistent with the truth."""

from dataclasses import replace
from random import Random

import pytest

from lab import probes
from lab.network.conditions import Conditions
from lab.network.relay import Relay
from lab.network.topology import topology
from lab.traffic.demo.conversation import Conversation
from lab.units import MS

NUMBER = 24
SIZES = (1, 375, 3000, 30_000)
LARGE = 1_000_000  # only on the link without the relay


def drawn(seed, *, relayed):
    """Draw a conversation, and the arguments to hold it with."""
    draw = Random(seed)  # noqa: S311 (no secret)

    def pause_ns():
        return draw.choice((0, 0, 3 * MS))

    conversation = Conversation(
        size_bits=8 * draw.choice(SIZES if relayed else (*SIZES, LARGE)),
        reply_bits=8 * draw.choice((0, *SIZES)),
        exchanges=draw.choice((0, 1, 2, 5)),
        # If a RST is lost, its receiver waits forever.
        how=draw.choice(("close", "shutdown") if relayed else ("close", "shutdown", "rst")),
        closer=draw.choice(("client", "server", "both")),
        before_accept_ns=pause_ns(),
        before_recv_ns=pause_ns(),
        before_reply_ns=pause_ns(),
        think_ns=pause_ns(),
        hold_ns=pause_ns(),
        linger_ns=pause_ns(),
    )
    if conversation.how == "rst" and conversation.closer != "client":
        # connect() fails if a RST comes before it returns, and then its port is unknown. A request comes first, so it
        # has returned.
        conversation = replace(conversation, exchanges=max(1, conversation.exchanges))
    connections = draw.choice((1, 4, 12))
    return conversation, {
        "connections": connections,
        "concurrency": min(connections, 6),
        "version": draw.choice((4, 6)),
    }


def conditions(seed):
    """Draw the conditions of one direction."""
    draw = Random(seed)  # noqa: S311
    return Conditions(
        delay_ns=draw.choice((0, 1, 5)) * MS,
        loss=draw.choice((0, 0, 0.03)),
        duplicate=draw.choice((0, 0, 0.05)),
        seed=seed,
    )


@pytest.fixture(params=range(NUMBER))
def seed(request):
    """Return the seed of a conversation."""
    return request.param


@pytest.fixture
def net(seed):
    """Two hosts; for odd seeds the wire between them delays, drops and duplicates frames."""
    with topology(*([Relay()] if seed % 2 else [])) as net:
        if seed % 2:
            net.conditions(conditions(2 * seed), conditions(2 * seed + 1))
        yield net


def test_any_conversation(lab, seed):
    """Every value of every probe is consistent with the logs of both applications and of the wire, if it keeps one."""
    conversation, how = drawn(seed, relayed=seed % 2)
    here = probes.here()
    observed = lab.converse(conversation, probes=here, **how)
    lab.check(check for name in here for check in probes.judge(name, observed, lab.scenario))
