"""The conformance suite: anybody's tool, told by a description file, is judged on traffic with known truth.

- A *description* (`description.py`) is a TOML file: how the tool is started, how its output is read, and which
  quantities it tells.
- A *case* (`cases/`) causes traffic in which tools are known to be wrong. Cases share *experiments*.
- *Happened* (`happened.py`) is the truth of one experiment as plain data.
- A *kind* (`kinds/`) compares a tool's rows with what happened, and gives *findings* with their evidence.
- A *judgement* (`judgement.py`) is the verdict on one tool and one case.

Experiments need a kernel. Everything after them is a function of plain data, which a run keeps, so it can be repeated.
"""
