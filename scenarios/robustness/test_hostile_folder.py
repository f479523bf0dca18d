"""Root works in a folder of another user: nothing there is imported, read as configuration, or written through a link."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.made.run_folder import checks, folder
from support.processes import HUNG_S

LAB = str(Path(sys.executable).with_name("lab"))
MODULES = (
    "selectors",
    "json",
    "numpy",
    "struct",
    "matplotlib",
    "lab",
    "tabulate",
    "scapy",
    "sitecustomize",
    "msgspec",
    "bcc",
)
MARK = """
import os
with open({mark!r}, "a") as file:
    file.write(f"{{__file__}} as {{os.getuid()}}\\n")
raise ImportError
"""


@pytest.fixture
def hostile(tmp_path):
    """Return a folder full of modules and configuration files of another user, and a list of those that were used."""
    place, mark = tmp_path / "theirs", tmp_path / "used"
    place.mkdir()
    for name in MODULES:
        (place / f"{name}.py").write_text(MARK.format(mark=str(mark)))
    (place / "matplotlibrc").write_text("axes.facecolor: no such colour\nfigure.dpi: nonsense\n")
    for path in (place, *place.iterdir()):
        os.chown(path, 65534, 65534)
    return place, lambda: mark.read_text().splitlines() if mark.exists() else []


def run(place, *words, **options):
    """Run the command `lab` in a folder."""
    environment = os.environ | {"LAB_RESULTS": str(place.parent / "results")} | options.pop("env", {})
    return subprocess.run(
        [LAB, *words], cwd=place, env=environment, capture_output=True, text=True, timeout=HUNG_S, check=False
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Return a folder for compiled programs that is empty at first, so that each is compiled once."""
    return tmp_path_factory.mktemp("cache")


COMMANDS = [
    ["--help"],
    ["doctor"],
    ["demo"],
    ["states", "--seconds", "0.2"],
    ["rtt", "-i", "0.1", "--seconds", "0.2"],
    ["analyse", "client", "--seconds", "0.2"],
    ["duration", "-i", "lo", "--seconds", "0.2"],
    ["flows", "-i", "lo", "--seconds", "0.2"],
    ["packets", "-i", "lo", "--seconds", "0.2"],
    ["layers", "-i", "lo", "--seconds", "0.2"],
    ["bench", "--quick", "wire"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_nothing_there_is_imported(hostile, words, cache):
    """Neither by the command nor by a process that it starts, the compiler's among them."""
    place, used = hostile
    done = run(place, *words, env={"XDG_CACHE_HOME": str(cache)})
    assert done.returncode == 0, done.stderr
    assert used() == []
    assert done.stderr.count("matplotlibrc") == 0


def test_matplotlibrc_is_not_read(hostile):
    """The picture is drawn as everywhere else."""
    place, used = hostile
    statistics = place / "statistics.dat"
    statistics.write_text("192.0.2.1:1 -> 192.0.2.2:2 | Duration: 0.003889830  s\n")
    done = run(place, "duration", "--from", str(statistics), "--plot", "graph.png")
    assert (done.returncode, done.stderr, used()) == (0, "", [])
    assert (place / "graph.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["report", "RUN", "-o", "out.html"], "out.html"),
        (["report", "RUN"], "RUN/report.html"),
        (["export", "RUN", "-f", "jsonl", "-o", "out.csv"], "out.csv"),
        (["export", "RUN", "-f", "jsonl", "-o", "out.csv"], ".out.csv.partial"),
        (["duration", "--from", "statistics.dat", "--plot", "graph.svg"], "graph.svg"),
        (["packets", "-i", "lo", "--seconds", "0.1", "--pcap", "out.pcapng"], "out.pcapng"),
        (["duration", "-i", "lo", "--seconds", "0.1", "--output", "durations.dat"], "durations.dat"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_no_link_is_followed(hostile, words, name):
    """The target of a link under the name of an output keeps its content."""
    place, _ = hostile
    victim = place.parent / "victim"
    victim.write_text("precious")
    folder(place / "RUN", checks=checks(count=1))
    (place / "statistics.dat").write_text("192.0.2.1:1 -> 192.0.2.2:2 | Duration: 0.003889830  s\n")
    (place / name).symlink_to(victim)
    done = run(place, *words)
    assert victim.read_text() == "precious"
    assert done.returncode == 0 or "is a link, which the lab does not follow" in done.stderr


def test_captures_are_private(hostile):
    """They hold payload, whatever the umask."""
    place, _ = hostile
    before = os.umask(0)
    try:
        assert run(place, "packets", "-i", "lo", "--seconds", "0.1", "--pcap", "out.pcapng").returncode == 0
    finally:
        os.umask(before)
    assert (place / "out.pcapng").stat().st_mode & 0o777 == 0o600
