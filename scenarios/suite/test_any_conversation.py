"""Conversations that nobody has thought of: drawn at random, the same ones in every run, and all probes must be right about each."""

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
LARGE = 1_000_000  # over what has no rate to wait for


def drawn(seed, *, relayed):
    """Draw a conversation, and how it is held."""
    draw = Random(seed)  # noqa: S311 (no secret)

    def hesitation():
        return draw.choice((0, 0, 3 * MS))

    conversation = Conversation(
        size_bits=8 * draw.choice(SIZES if relayed else (*SIZES, LARGE)),
        reply_bits=8 * draw.choice((0, *SIZES)),
        exchanges=draw.choice((0, 1, 2, 5)),
        # Who is never told, since the RST was lost, waits for ever.
        how=draw.choice(("close", "shutdown") if relayed else ("close", "shutdown", "rst")),
        closer=draw.choice(("client", "server", "both")),
        before_accept_ns=hesitation(),
        before_recv_ns=hesitation(),
        before_reply_ns=hesitation(),
        think_ns=hesitation(),
        hold_ns=hesitation(),
        linger_ns=hesitation(),
    )
    if conversation.how == "rst" and conversation.closer != "client":
        # By a RST that comes before it has returned, connect() fails, and nobody is told which port it had.
        conversation = replace(conversation, exchanges=max(1, conversation.exchanges))
    connections = draw.choice((1, 4, 12))
    return conversation, {
        "connections": connections,
        "concurrency": min(connections, 6),
        "version": draw.choice((4, 6)),
    }


def conditions(seed):
    """Draw what happens in one direction."""
    draw = Random(seed)  # noqa: S311
    return Conditions(
        delay_ns=draw.choice((0, 1, 5)) * MS,
        loss=draw.choice((0, 0, 0.03)),
        duplicate=draw.choice((0, 0, 0.05)),
        seed=seed,
    )


@pytest.fixture(params=range(NUMBER))
def seed(request):
    """Return what everything of a conversation is drawn from."""
    return request.param


@pytest.fixture
def net(seed):
    """Two hosts; every second time with a wire between them that delays, loses and doubles."""
    with topology(*([Relay()] if seed % 2 else [])) as net:
        if seed % 2:
            net.conditions(conditions(2 * seed), conditions(2 * seed + 1))
        yield net


def test_any_conversation(lab, seed):
    """Every number of every probe is consistent with what both applications, and the wire where it keeps a log, know."""
    conversation, how = drawn(seed, relayed=seed % 2)
    here = probes.here()
    observed = lab.converse(conversation, probes=here, **how)
    lab.check(check for name in here for check in probes.judge(name, observed, lab.scenario))
