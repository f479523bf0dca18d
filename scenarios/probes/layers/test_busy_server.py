"""`lab layers` at a server with many requests: the slow ones, percentiles of each interval, and the layer that is slow."""

import json
import re
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
from support import third_party
from support.processes import interrupted, parsed, refuses, watching

from lab.network.conditions import Conditions
from lab.network.link_choice import wire
from lab.network.topology import topology
from lab.probes.layers.stages import LAYERS
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse
from lab.units import MS

HTTP, BACKEND = 80, 8081
SLOW_MS = 40
ONE_WAY = Conditions(delay_ns=15 * MS)

APPLICATION = f"""
import http.server, time
class Slow(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        time.sleep({SLOW_MS} / 1000)
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"slow\\n")
http.server.HTTPServer(("127.0.0.1", {BACKEND}), Slow).serve_forever()
"""
LOCATION = f"location /slow {{ proxy_pass http://127.0.0.1:{BACKEND}; }}"


@pytest.fixture
def relayed():
    """Two hosts and a wire that supports every condition."""
    with topology(wire()) as net:
        yield net


HEAD = re.compile(r"(?P<count>\d+) requests?(?P<when> in \d+\.\d s)?, microseconds:")


@contextmanager
def shop(host, folder):
    """Run nginx with fast pages and a slow one in a container: own PID namespace, no name for its network namespace."""
    (folder / "fast").write_text("fast\n")
    backend = folder / "backend"
    backend.mkdir()
    with (
        third_party.server(host, BACKEND, sys.executable, "-c", APPLICATION, folder=backend),
        third_party.nginx(host, HTTP, folder, also=LOCATION) as processes,
    ):
        yield min(processes())


def test_which_layer_of_the_slow_request_is_it(net, tmp_path):
    """`lab layers --port 80 --min 20ms --netns PID` shows one of twelve requests, and that its time is the application's."""
    pages = [*["fast"] * 6, "slow", *["fast"] * 5]
    urls = [word for page in pages for word in ("-o", "/dev/null", f"http://{net.server.ipv4}:{HTTP}/{page}")]
    with shop(net.server, tmp_path) as pid:
        question = ("layers", "--port", str(HTTP), "--min", "20ms", "--netns", str(pid))
        with watching(*question, "--json") as output, watching(*question) as table:
            done = third_party.client(net.client, "curl", "-q", "-gs", "-w", "%{json}\n", *urls)
            net.quiesce()
    errors, text = output
    assert "lab: rows faster than --min, or of unknown total, which are not shown: 11" in errors.splitlines()
    (row,) = parsed(("", text))
    times = {(leg, name): row[f"{leg}_{name}_ns"] or 0 for leg in ("request", "reply") for name in LAYERS}
    slowest = max(times, key=times.get)
    assert slowest == ("reply", "application")
    replies = [json.loads(line) for line in done.output.splitlines()]
    took_ns = round(replies[6]["time_total"] * 1e9)  # as curl saw it, with the network
    assert SLOW_MS * MS <= times[slowest] <= row["total_ns"] <= took_ns
    assert "12 requests, microseconds" in table[1]  # percentiles are of all requests, and of streams


def test_slow_by_the_network(relayed, tmp_path):
    """Behind a slow link it is the wire, each way: --top 1 prints the slowest request of each interval."""
    both = ("--netns", relayed.client.name, "--peer-netns", relayed.server.name)
    with shop(relayed.server, tmp_path):
        relayed.conditions(ONE_WAY, ONE_WAY)
        with watching("layers", "--json", "--port", str(HTTP), "--top", "1", *both) as output:
            url = f"http://{relayed.server.ipv4}:{HTTP}/fast"
            third_party.client(relayed.client, "curl", "-q", "-gs", *["-o", "/dev/null", url] * 4)
            relayed.quiesce()
    (row,) = parsed(output)
    assert row["request_wire_ns"] >= ONE_WAY.delay_ns
    assert row["reply_wire_ns"] >= ONE_WAY.delay_ns
    assert row["request_wire_ns"] + row["reply_wire_ns"] > row["total_ns"] // 2


def test_percentiles_of_intervals(net):
    """Each interval has percentiles of its requests, of all and by peer; together they count each request once."""
    with watching("layers", "--json", "--interval", "0.5", "--netns", net.server.name) as output:
        for _ in range(3):
            with converse(net, Conversation(exchanges=4, think_ns=200 * MS)):
                pass
        net.quiesce()
    rows = parsed(output)
    requests = [row for row in rows if row["schema"] == "layers/1"]
    totals = [row for row in rows if row["schema"] == "layers.summary/1" and row["layer"] == "total"]
    of_intervals = [row for row in totals if row["since_ns"] is not None]
    assert len(requests) == 12
    assert sum(row["requests"] for row in of_intervals if row["peer"] is None) == 12
    assert sum(row["requests"] for row in of_intervals if row["peer"] == net.client.ipv4) == 12
    assert len({row["since_ns"] for row in of_intervals}) > 1
    (whole,) = [row for row in totals if row["since_ns"] is None and row["peer"] is None]
    assert whole["requests"] == 12
    assert whole["max_ns"] == max(row["total_ns"] for row in requests)


def test_the_summary_is_printed_at_once_and_at_the_end(net):
    """With --summary the first percentiles come while requests are made, and the last ones are of the whole time."""
    heads = []
    words = [sys.executable, "-m", "lab", "layers", "--summary", "--netns", net.server.name]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as tool:
        reader = threading.Thread(target=lambda: heads.append(next(filter(HEAD.match, tool.stdout))))
        reader.start()
        while reader.is_alive():
            with converse(net, Conversation(exchanges=2)):
                pass
        rest, _ = interrupted(tool)
    heads += filter(HEAD.match, rest.splitlines())
    first, last = (HEAD.match(head) for head in heads)
    assert (first["when"] is None, last["when"] is None) == (False, True)
    assert 0 < int(first["count"]) <= int(last["count"])


BAD_INPUT = {
    "segments are no requests": (["--packets", "--min", "5ms"], "--packets shows no requests"),
    "no number of requests": (["--top", "0"], "`0` is not a number of rows: give 1 or more"),
    "no interval": (["--interval", "never"], "`never` is not an interval"),
    "no time": (["--min", "20"], "`20` is not a duration: write it like 250us"),
}


@pytest.mark.parametrize(("words", "said"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input(words, said):
    """One sentence and exit status 2."""
    refuses(["layers", "-i", "lo", *words], said)
