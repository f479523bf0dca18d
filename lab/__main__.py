"""`python -m lab` is the command `lab`."""

import sys

from lab.cli import main

sys.exit(main())
