"""The pytest plugin of the lab, for the suites of other projects and for its own.

pytest loads `plugin` in every run of an environment that has the lab (entry point `pytest11`). `lab` is what a test gets
from the fixture of that name.
"""
