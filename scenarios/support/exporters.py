"""Live tools that serve metrics, read as a Prometheus server reads them."""

import re
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from lab import probes
from lab.linux.netns import inside
from lab.live import metrics
from lab.live.account import Account
from support.processes import HUNG_S, interrupted, require_events

SERVED = re.compile(r"lab: metrics at (http://\S+)\n")


class Samples:
    """What a server reads in one scrape: values by name and labels."""

    def __init__(self, text):
        families = text_string_to_metric_families(text)
        self.values = {
            (one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples
        }

    def total(self, name, **labels):
        """Return the sum of the samples with these labels."""
        return sum(value for (found, its), value in self.values.items() if found == name and labels.items() <= its)

    def bounds(self, name):
        """Return the bounds of a histogram's buckets as text, in seconds."""
        return {dict(its)["le"] for found, its in self.values if found == f"{name}_bucket"} - {"+Inf"}


def served(families, rows):
    """Return the samples of these families after they have counted the rows, in two batches."""
    exporter, registry = metrics.Exporter("tool", families, Account()), CollectorRegistry()
    registry.register(exporter)
    for part in np.array_split(rows, 2):
        exporter.add(part)
    return Samples(generate_latest(registry).decode())


@dataclass
class Exporter:
    """A running tool. After the block `errors` has what it wrote on standard error, without the line about the address."""

    url: str
    errors: str = ""

    def scrape(self):
        """Read all samples."""
        request = urllib.request.Request(self.url, headers={"Accept": CONTENT_TYPE_LATEST})  # noqa: S310 (our own)
        with urllib.request.urlopen(request, timeout=HUNG_S) as answer:  # noqa: S310 (as above)
            return Samples(answer.read().decode())

    def scrape_until(self, expected, name, **labels):
        """Scrape until a sum has reached a value, and return the samples. Fail unless it is exactly the value."""
        deadline = time.monotonic() + HUNG_S
        while (samples := self.scrape()).total(name, **labels) < expected and time.monotonic() < deadline:
            time.sleep(0.01)
        assert samples.total(name, **labels) == expected
        return samples


@contextmanager
def exporting(command, *arguments, address=":0", host=None, lossy=False):
    """Run a live tool with `--metrics` while the block runs; yield the `Exporter`. End it by Ctrl-C.

    `host` is where it runs. Raises `UnsupportedByKernel` like `watching`, and `EventsWithheld` unless it may be `lossy`. Fails
    if the tool prints anything on standard output, if its end is no success, or if the address is served after it.
    """
    probes.require(command)
    words = ["/usr/bin/env", "--default-signal=INT", "/usr/bin/setpriv", "--pdeathsig", "KILL", sys.executable]
    words += ["-m", "lab", command, "--metrics", address, *arguments]

    def start():
        return subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    process = inside(host.name, start) if host else start()
    try:
        first = process.stderr.readline()
        where = SERVED.fullmatch(first)
        assert where, first + process.stderr.read()
        exporter = Exporter(where[1])
        yield exporter
    finally:
        out, errors = interrupted(process)
    exporter.errors = errors
    assert (process.returncode, out) == (0, ""), errors
    if not lossy:
        require_events(command, errors)
    if host is None:
        with pytest.raises(OSError, match="refused"):
            exporter.scrape()
