"""Judging kept evidence again: by a corrected description, and without running what it names."""

import msgspec
import pytest
from support.made.judged_run import judged, judged_run, product

from lab.errors import LabError
from lab.judging.description import Description, Output
from lab.judging.judgement import replayed
from lab.judging.quantity import Quantity


def run_with(path, output):
    """Make a run whose tool is read by a form of output."""
    ((judgement, evidence),) = judged(product(), {"S6": "right"})
    tool = msgspec.structs.replace(evidence.tool, output=output)
    return judged_run(path, [(judgement, msgspec.structs.replace(evidence, tool=tool))])


def test_code_is_not_run(tmp_path):
    """A run can come from anybody: a file that it names is not loaded."""
    trap = tmp_path / "trap.py"
    trap.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef read(text):\n    return []\n")
    folder = run_with(tmp_path / "run", Output("python", python=f"{trap}:read"))
    with pytest.raises(LabError, match="is read by Python code: name its description, too"):
        list(replayed(folder))
    assert not (tmp_path / "ran").exists()


def test_a_corrected_description(tmp_path):
    """With a description, its own reading of the kept output counts, and other tools are left out."""
    folder = run_with(tmp_path / "run", Output("table", row="nothing matches"))
    corrected = Description(
        "tcpstates", ["tcpstates"], [Quantity("states")], output=Output("table", row="(?P<oldstate>.*)")
    )
    assert len(list(replayed(folder))) == 1
    assert len(list(replayed(folder, [corrected]))) == 1
    assert list(replayed(folder, [msgspec.structs.replace(corrected, name="another")])) == []
