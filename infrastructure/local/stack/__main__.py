"""The command line: `stack.sh up | down | status | start PART | stop PART | kill PART`."""

import argparse
import os
import sys

from stack import commands
from stack.errors import StackError
from stack.layout import Layout


def main() -> int:
    """Run one command; a failure is one message and a status."""
    parser = argparse.ArgumentParser(prog="stack.sh", description="A real lakehouse on this machine, without Docker.")
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("up", help="start what is not running")
    actions.add_parser("down", help="stop everything; the data stays")
    actions.add_parser("status", help="what runs, and where")
    for action in ("start", "stop", "kill"):
        help_of_part = f"{', '.join([*commands.FIXED, *commands.OPTIONAL])}, or a worker such as trino-2"
        actions.add_parser(action, help=f"{action} one part").add_argument("part", help=help_of_part)
    arguments = parser.parse_args()
    os.umask(0o077)
    layout = Layout.from_environment()
    try:
        if arguments.action == "status":
            return commands.status(layout)
        if arguments.action in ("up", "down"):
            getattr(commands, arguments.action)(layout)
        else:
            commands.one(layout, arguments.action, arguments.part)
    except (StackError, OSError) as error:
        sys.stderr.write(f"stack: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nstack: interrupted; the same command goes on from here\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
