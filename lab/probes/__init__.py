"""One module a probe: what its events mean and how its live tool shows them. Its program is the C file of the same name.

A module that is put here is a probe and a command (`lab/commands`): there is no list.
"""
