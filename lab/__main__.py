"""Run the command `lab` as `python -m lab`."""

import sys

from lab.cli import main

sys.exit(main())
