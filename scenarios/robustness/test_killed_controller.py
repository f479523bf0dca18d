"""`kill -9` of a parallel run: its workers remove what they hold."""

import os
import subprocess
import sys
import time

from support.processes import NOTHING, belongings, left_of

SCENARIO = """
import time
from lab.traffic.demo.conversation import Conversation
from lab.traffic.demo.process import converse
from lab.recording.recorder import record

def test_{number}(net):
    with record("states"), converse(net, Conversation(), pause=True) as demo:
        demo.await_pause()
        open({ready!r}, "w").close()
        time.sleep(60)
"""


def test_workers_end_with_their_controller(tmp_path):
    """Processes, programs, namespaces and the instances' folders: nothing is left, without another command."""
    files = []
    for number in range(2):
        path = tmp_path / f"test_long_{number}.py"
        path.write_text(SCENARIO.format(number=number, ready=str(tmp_path / f"ready-{number}")))
        files.append(str(path))
    options = ["-p", "conftest", "-c", "pyproject.toml", "--rootdir=.", "--numprocesses", "2", "--dist", "load"]
    environment = os.environ | {"LAB_RESULTS": str(tmp_path / "results")}
    command = [sys.executable, "-m", "pytest", *options, *files]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True, env=environment)
    try:
        while not all((tmp_path / f"ready-{number}").exists() for number in range(2)):
            assert process.poll() is None
            time.sleep(0.01)
        held = belongings(process.pid)
        assert len(held["namespaces"]) == 6
    finally:
        process.kill()
        process.wait()
    assert left_of(held) == NOTHING
