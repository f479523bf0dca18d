"""docs/grafana: a Prometheus server with the documented configuration scrapes the tools, and every query has an answer."""

import json
import math
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import ExitStack
from http import HTTPStatus

import pytest
from ruamel.yaml import YAML
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from support.exporters import exporting
from support.processes import HUNG_S
from support.third_party import found, server

from lab import probes
from lab.linux.netns import inside
from lab.network.conditions import Conditions
from lab.network.relay import Relay
from lab.network.topology import topology
from lab.paths import CHECKOUT
from lab.traffic.crafted.send import send
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse

FOLDER = CHECKOUT / "docs" / "grafana"
DASHBOARD = json.loads((FOLDER / "tcp-truth-lab.json").read_text())
QUERIES = {target["expr"]: panel["title"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])}
VARIABLES = {"$instance": ".*", "$__rate_interval": "1m"}
PORT = 9090
TARGET = re.compile(r"127\.0\.0\.1:(\d+) # lab (\w+)")
NOTHING = ("Events lost", "SYNs that clients repeated")
"""Panels whose lines are at 0 in this traffic."""


def ask(host, path, **parameters):
    """Return the data of an answer of the Prometheus server on a host; None while it is starting."""
    url = f"http://127.0.0.1:{PORT}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"

    def read():
        with urllib.request.urlopen(url, timeout=HUNG_S) as answer:
            return json.load(answer)["data"]

    try:
        return inside(host.name, read)
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.SERVICE_UNAVAILABLE:
            return None
        raise AssertionError(f"{parameters}: {error.read().decode()}") from error


def answered(host, query):
    """Return the values of a query of the dashboard."""
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    data = ask(host, "query", query=query)
    return [float(one["value"][1]) for one in data["result"]] if data else []


def cause_traffic(net):
    """Hold two conversations, of which one loses a segment of the server; send a SYN and data to ports that are closed."""
    net.conditions(Conditions(), Conditions(drop=(3,)))
    with converse(net, Conversation(exchanges=3), connections=2):
        pass
    with converse(net, Conversation(), serve=False):
        pass
    ends = IP(src=net.client.ipv4, dst=net.server.ipv4)
    send(
        net.client.name,
        [bytes(Ether(src=net.client.mac, dst=net.server.mac) / ends / TCP(dport=1, flags="PA") / b"data")],
    )


@pytest.fixture
def scraped(tmp_path):
    """Two hosts. On the server's host all tools run, and Prometheus with the documented configuration, but every second."""
    options = {"analyse": ["service"], "rtt": ["--interval", "1"]}
    text = (FOLDER / "prometheus.yml").read_text()
    (tmp_path / "prometheus.yml").write_text(text.replace("15s", "1s"))
    command = [found("prometheus"), "--config.file=prometheus.yml", "--storage.tsdb.path=data"]
    with topology(Relay()) as net, ExitStack() as running:
        for port, tool in TARGET.findall(text):
            words = [tool, *options.get(tool, [])]
            running.enter_context(exporting(*words, address=f":{port}", host=net.server, lossy=True))
        running.enter_context(
            server(net.server, PORT, *command, f"--web.listen-address=127.0.0.1:{PORT}", folder=tmp_path)
        )
        yield net


def test_every_query_has_an_answer(scraped):
    """Each query of the dashboard yields numbers, all of them finite, and above 0 where the traffic has something to count."""
    deadline = time.monotonic() + HUNG_S
    missing = dict(QUERIES)
    while missing and time.monotonic() < deadline:
        cause_traffic(scraped)
        for query, title in list(missing.items()):
            values = [value for value in answered(scraped.server, query) if not math.isnan(value)]
            if values and (title in NOTHING or max(values) > 0):
                assert all(map(math.isfinite, values))
                del missing[query]
    assert not missing
    targets = ask(scraped.server, "targets")["activeTargets"]
    assert {one["health"] for one in targets} == {"up"}
    assert len(targets) == len(probes.names())


def test_every_tool_has_a_port():
    """The documented configuration names each live tool once, each with a port of its own."""
    ports, tools = zip(*TARGET.findall((FOLDER / "prometheus.yml").read_text()), strict=True)
    assert sorted(tools) == probes.names()
    assert len(set(ports)) == len(ports)


def test_the_dashboard_can_be_provisioned():
    """Panels have an id of their own and do not overlap; the folder is the documented one."""
    identities = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(identities)) == len(identities)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    (provider,) = YAML(typ="safe").load(FOLDER / "provisioning.yml")["providers"]
    assert provider["options"]["path"] in (FOLDER / "README.md").read_text()
