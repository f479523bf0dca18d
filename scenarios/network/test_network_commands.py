"""`lab wire --network` and `lab demo --network`: any network, and nothing of it is left."""

import json
import os
import signal
import sys

import pytest
from support.processes import NOTHING, belongings, end, lab_command, left_of, refuses, started

from lab.linux.instance import sweep
from lab.network.topology import Host
from lab.traffic.demo.process import Endpoint


@pytest.mark.parametrize("network", ["nat", "tun", "switch", "one-host"])
def test_by_hand(network):
    """The demo client reaches the server at the addresses that `lab wire` prints, and Ctrl-C removes everything."""
    words = [sys.executable, "-m", "lab", "wire", "--network", network]
    with started(*words, ready="Ctrl-C") as process:
        held = belongings(process.pid)
        hosts = {name.rpartition("-")[2]: name for name in held["namespaces"]}
        target = {"nat": "192.0.2.3", "one-host": "127.0.0.1"}.get(network, "192.0.2.2")
        client, server = (hosts.get(role) or hosts["host"] for role in ("client", "server"))
        with Endpoint("serve", Host(server, "", "", "", 0), ["--connections", "1"]) as serving:
            serving.await_ready()
            done = lab_command("connect", "--json", "--netns", client, target)
            assert done.returncode == 0, done.stderr
            serving.finish()
        (timeline,) = [json.loads(line) for line in done.stdout.splitlines()]
        assert not any(call[4] for call in timeline["calls"])
        assert end(process) == 0
    assert left_of(held) == NOTHING


@pytest.mark.parametrize("network", ["nat", "tun", "hops"])
def test_killed(network):
    """After `kill -9` the next instance removes routers, tunnels and hosts."""
    with started(sys.executable, "-m", "lab", "wire", "--network", network, ready="Ctrl-C") as process:
        held = belongings(process.pid)
        assert len(held["namespaces"]) >= 2
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    sweep()  # another process of the suite may have been first
    assert left_of(held) == NOTHING


def test_conditions_need_a_wire():
    """Conditions on a network without a wire give one sentence, exit status 2 and no output."""
    refuses(["wire", "--network", "direct", "--delay", "1ms"], "this network has no wire that could delay or drop")


def test_demo(tmp_path):
    """`lab demo` judges every number on another network too, here behind a router that translates addresses."""
    done = lab_command("demo", "--network", "nat", env={**os.environ, "LAB_RESULTS": str(tmp_path)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every measured value is consistent with the truth" in done.stdout
