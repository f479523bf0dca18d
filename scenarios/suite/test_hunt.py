"""Random experiments with a fixed seed: every value of every probe must be consistent with the truth."""

import subprocess
import sys
from pathlib import Path

from support.processes import HUNG_S

from lab.hunt.experiment import Experiment
from lab.traffic.demo.conversation import Conversation

LAB = str(Path(sys.executable).with_name("lab"))


def hunt(*words):
    """Run `lab hunt`; return its exit status and what it prints."""
    done = subprocess.run([LAB, "hunt", *words], capture_output=True, text=True, timeout=HUNG_S, check=False)
    return done.returncode, done.stdout + done.stderr


def test_hunt():
    """Half a minute of it: no probe tells a wrong number."""
    status, said = hunt("--minutes", "0.5", "--seed", "7")
    assert status == 0, said
    assert "no contradiction was found" in said


def test_replay(tmp_path):
    """An experiment of a file is held ten times and judged each time."""
    Experiment(Conversation(exchanges=2), 2, 1, 6, None, 1, ("duration", "states")).write(tmp_path / "hunt.json")
    status, said = hunt("--replay", str(tmp_path / "hunt.json"))
    assert status == 0, said
    assert "10 experiments, " in said
