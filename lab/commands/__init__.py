"""The commands of `lab`, one module each: the docstring is the help, `add_arguments` adds the options, `run` runs it.

The help shows the optional strings EXAMPLES and DETAILS of a module after its options. `lab.cli` finds the modules by
listing this package. Each `lab/probes/<name>/cli.py` is a command of the same form.
"""
