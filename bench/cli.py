"""`python -m bench <command>`: one command per measurement. Tables go to files, chatter to standard error.

Only the module of the command that was asked for is imported: `--help` is quick, and a bare machine with torch, numpy
and pandas can run the latency harness.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from bench.commands import COMMANDS, Action
from bench.options import add_options, read_options

LONGEST = 1500
"""Characters of an error message."""


class _Parser(argparse.ArgumentParser):
    """Refuses a command line in one line, with exit status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {self.prog}: {bounded(message)}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command; bad input is one line and exit status 2, `--strict` with a deviation 1."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parsed = _parser(arguments).parse_args(arguments)
    # Not at the top: it brings torch, for which `--help` need not wait.
    from dydit import InputError

    action: Action = parsed.action
    try:
        sys.exit(action.run(read_options(parsed, action.options)) or 0)
    except InputError as error:
        print(f"error: {bounded(str(error))}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        print(bounded(f"error: {error.strerror}: {error.filename}; give a shorter path"), file=sys.stderr)
        sys.exit(2)


def bounded(message: str) -> str:
    """A message in one line of at most `LONGEST` characters: input that it quotes may have any length."""
    line = " ".join(message.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 40]} ... ({len(line)} characters)"


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of all commands, of which the one that `arguments` ask for has its options."""
    parser = _Parser(
        prog="python -m bench",
        description="Reproduce, measure and judge the claims of Dynamic Diffusion Transformer (arXiv 2410.03456).",
    )
    commands = parser.add_subparsers(metavar="command", required=True)
    asked = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, command in COMMANDS.items():
        added = commands.add_parser(name, help=command.help, description=command.help, allow_abbrev=False)
        if name == asked:
            module = importlib.import_module(f"bench.commands.{command.folder}.{name.replace('-', '_')}")
            _declare(added, module, command.help)
    return parser


def _declare(parser: argparse.ArgumentParser, module: ModuleType, help: str) -> None:
    """Give the parser of a command its options, or its actions with theirs."""
    if not hasattr(module, "ACTIONS"):
        _fill(parser, Action(help, module.OPTIONS, module.run))
        return
    actions = parser.add_subparsers(metavar="action", required=True)
    for name, action in module.ACTIONS.items():
        _fill(actions.add_parser(name, help=action.help, description=action.help, allow_abbrev=False), action)


def _fill(parser: argparse.ArgumentParser, action: Action) -> None:
    add_options(parser, action.options)
    parser.set_defaults(action=action)
