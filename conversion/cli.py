"""The command `xlbridge`."""

import argparse
import os
import sys
from collections.abc import Sequence

from conversion import commands as files
from conversion import scoring
from conversion.parity import command as parity
from xlcore import XLError, __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0 if all is well, 1 if what was looked for was found wanting, 2 for an error."""
    parser = argparse.ArgumentParser(prog="xlbridge", description="Transformer-XL and its kin in PyTorch and Keras 3.")
    parser.add_argument("--version", action="version", version=f"xlbridge {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    files.add_to(commands)
    parity.add_to(commands)
    scoring.add_to(commands)
    options = parser.parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except XLError as error:
        print(f"xlbridge {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"xlbridge {options.command}: stopped", file=sys.stderr)
        return 2
    except BrokenPipeError:  # who read what we print has enough; nothing may be flushed to them at the end either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    except OSError as error:  # what no one expected, such as a current folder that is gone
        where = f"{error.filename}: " if error.filename else ""
        print(f"xlbridge {options.command}: {where}must be usable, got {error.strerror or error}", file=sys.stderr)
        return 2
    return code


if __name__ == "__main__":
    sys.exit(main())
