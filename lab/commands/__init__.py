"""One module a command: its docstring is the help, `add_arguments` its options, `run` what it does.

The probes in `lab/probes` are commands of the same form. A module that is put here is a command: there is no list.
"""
