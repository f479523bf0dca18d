"""The options by which the live tools choose."""

import argparse

import pytest

from lab.live import filters

pytestmark = pytest.mark.rootless


@pytest.mark.parametrize(
    ("given", "kept"),
    [("nginx", "nginx"), ("a-name-of-16-chs", "a-name-of-16-ch"), ("sixteen-bytes-é", "sixteen-bytes-")],
)
def test_a_name_is_as_long_as_in_the_kernel(given, kept):
    """A process has a name of 15 bytes, also where a longer one was given (TASK_COMM_LEN)."""
    parser = argparse.ArgumentParser()
    filters.add_process_arguments(parser)
    assert parser.parse_args(["--comm", given]).comm == [kept]
