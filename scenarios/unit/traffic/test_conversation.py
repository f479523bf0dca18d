"""The plan of a conversation, and its command-line options."""

import argparse
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import LabError
from lab.traffic.demo.conversation import Conversation, add_arguments

DELAYS = [field.name for field in fields(Conversation) if field.name.endswith("_ns")]
CONVERSATIONS = st.builds(
    Conversation,
    size_bits=st.integers(1, 10**6).map(lambda size: 8 * size),
    reply_bits=st.integers(0, 10**6).map(lambda size: 8 * size),
    exchanges=st.integers(0, 1000),
    closer=st.sampled_from(["client", "server", "both"]),
    how=st.sampled_from(["close", "shutdown", "rst"]),
    **{name: st.integers(0, 10**15) for name in DELAYS},
)


def parsed(*words: str) -> Conversation:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_arguments(parser)
    return Conversation.from_arguments(parser.parse_args(words))


@settings(deadline=None)
@given(CONVERSATIONS)
def test_arguments_describe_a_conversation_completely(conversation):
    """Parsing the options of a conversation gives the same conversation."""
    assert parsed(*conversation.arguments()) == conversation


def test_no_arguments_are_the_default_conversation():
    """The command line and the class have the same defaults."""
    assert parsed() == Conversation()


@pytest.mark.parametrize("size_bits", [0, 7, 12, -8])
def test_a_message_is_a_whole_number_of_bytes(size_bits):
    """A size that is not a positive multiple of 8 bits is refused."""
    with pytest.raises(LabError, match="multiple of 8"):
        Conversation(size_bits=size_bits)
    if size_bits:
        with pytest.raises(LabError, match="multiple of 8"):
            Conversation(reply_bits=size_bits)


def test_a_negative_number_of_exchanges_is_refused():
    """The number of exchanges is 0 or more."""
    with pytest.raises(LabError, match="exchanges"):
        Conversation(exchanges=-1)


def test_size_is_in_bytes():
    """3000 bits are 375 bytes. A reply without a size has the size of the request."""
    assert (Conversation(size_bits=3000).size, Conversation(size_bits=3000).reply_size) == (375, 375)
    assert Conversation(size_bits=3000, reply_bits=8).reply_size == 1


@pytest.mark.parametrize(
    ("closer", "client", "server"), [("client", True, False), ("server", False, True), ("both", True, True)]
)
def test_the_closer_closes_first(closer, client, server):
    """`closes_first` follows from the role and the closer."""
    conversation = Conversation(closer=closer)
    assert (conversation.closes_first("client"), conversation.closes_first("server")) == (client, server)


@pytest.mark.parametrize(
    "words", [("--closer", "nobody"), ("--how", "politely"), ("--think", "5"), ("--exchanges", "x")]
)
def test_invalid_options_are_refused(words):
    """An invalid value of an option is an error of the command line."""
    with pytest.raises(argparse.ArgumentError):
        parsed(*words)
