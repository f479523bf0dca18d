"""Print the code by which bash or zsh completes `lab`: commands, options and values.

`make install` puts it where bash-completion and zsh look for it. Elsewhere
the shell evaluates it at its start.
"""

import argparse
import sys

from argcomplete.shell_integration import shellcode

EXAMPLES = """\
examples:
  echo 'eval "$(lab completion bash)"' >> ~/.bashrc
  echo 'eval "$(lab completion zsh)"' >> ~/.zshrc      behind compinit
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("shell", choices=("bash", "zsh"))


def run(args: argparse.Namespace) -> int:
    """Print the code."""
    sys.stdout.write(shellcode(["lab"], shell=args.shell))
    return 0
