"""Naming a network namespace and an interface: by name, process or path; by name or altname; from inside."""

import subprocess
import sys
from contextlib import contextmanager

import pytest
from pyroute2 import IPRoute
from support.processes import HUNG_S, lab_command, parsed, refuses, watching

from lab.linux.netns import inode_of, inside
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse

ALTNAME = "the-interface-with-a-name-of-more-than-fifteen-characters"


@contextmanager
def process_in(namespace):
    """Run a process in a namespace, and yield its id: the way in which a container is named."""
    with inside(namespace, lambda: subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE)) as cat:
        yield cat.pid
        cat.stdin.close()


@pytest.mark.parametrize("form", ["name", "process", "path"])
def test_three_forms(net, form):
    """V6: a live tool observes the same namespace by its name, by the id of a process in it, and by a path."""
    with process_in(net.server.name) as pid:
        given = {"name": net.server.name, "process": str(pid), "path": f"/proc/{pid}/ns/net"}[form]
        assert inode_of(given) == net.server.inode
        with watching("states", "--json", "--netns", given) as output, converse(net, Conversation()):
            pass
    rows = [row for row in parsed(output) if "netns" in row]
    assert {row["netns"] for row in rows} == {net.server.inode}


def test_altname(net):
    """V6: an interface is found by its altname, and rows have its name."""

    def name():
        with IPRoute() as netlink:
            netlink.link("property_add", index=net.client.ifindex, altname=ALTNAME)

    inside(net.client.name, name)
    with (
        watching("flows", "--json", "--netns", net.client.name, "-i", ALTNAME) as output,
        converse(net, Conversation()),
    ):
        pass
    assert parsed(output)
    refuses(["flows", "--netns", net.client.name, "-i", ALTNAME[:-1]], f"there is no interface `{ALTNAME[:-1]}`")


WRONG = {
    "no process": ("999999999", "there is neither a network namespace nor a process `999999999`"),
    "another kind of namespace": ("/proc/self/ns/uts", "is not the file of a network namespace"),
    "another file": ("/dev/zero", "is not the file of a network namespace"),
    "no file": ("./nowhere", "`./nowhere` is no network namespace (No such file or directory)"),
    "no name": ("nowhere", "containers have none there, give the id of one of their processes"),
}


@pytest.mark.parametrize(("given", "sentence"), WRONG.values(), ids=WRONG)
def test_no_namespace(given, sentence):
    """V6: something else than a network namespace gives one sentence."""
    refuses(["states", "--netns", given], sentence)


def test_inside_of_ip_netns_exec(net):
    """V2: `ip netns exec` mounts a new sysfs without cgroup v2: `lab layers` works, and mounts nothing."""
    words = ["ip", "netns", "exec", net.client.name, sys.executable, "-m", "lab", "layers", "-i", "eth0"]
    done = subprocess.run([*words, "--seconds", "0.2"], capture_output=True, text=True, timeout=HUNG_S, check=False)
    assert done.returncode == 0, done.stderr
    assert "cgroup" not in done.stderr
    assert lab_command("layers", "--netns", net.client.name, "--seconds", "0.2").returncode == 0
