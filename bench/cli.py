"""`python -m bench <command>`: one command per measurement. Tables go to files, chatter to standard error.

Only the module of the command that was asked for is imported: `--help` is quick, and a bare machine with torch, numpy
and pandas can run the latency harness.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from bench.commands import COMMANDS, Action
from bench.options import add_options, read_options

LONGEST = 1500
"""Characters of an error message."""
INTERRUPTED, PIPE_CLOSED = 130, 141
"""Exit statuses after Ctrl-C, and where nobody reads the output any more, as shells have them."""
_MOVE = "something of another kind lies there; move it away"
_ROOM = "make room and repeat the run"
_REMEDIES = {
    errno.ENAMETOOLONG: "give a shorter path",
    **dict.fromkeys((errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY), _MOVE),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _ROOM),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "make it accessible, or choose another place"),
}
"""What to do about an error of the operating system, by its number."""


class _Parser(argparse.ArgumentParser):
    """Refuses a command line in one line, with exit status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {self.prog}: {bounded(message)}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command: bad input, and what the operating system refuses, is one line and exit status 2.

    `--strict` with a deviation is exit status 1, Ctrl-C 130, and a reader of the output that went away 141.
    """
    try:
        _run(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        _end(INTERRUPTED, "interrupted; what was written is whole, and the same line goes on from it where it can")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter would try to write the rest
        sys.exit(PIPE_CLOSED)
    except OSError as error:
        _end(2, _refused_by_system(error))


def _run(arguments: Sequence[str]) -> NoReturn:
    parsed = _parser(arguments).parse_args(arguments)
    # Not at the top: it brings torch, for which `--help` need not wait.
    from dydit import InputError, first_line
    from dydit.inference import keep_freed_memory

    keep_freed_memory()
    action: Action = parsed.action
    try:
        sys.exit(action.run(read_options(parsed, action.options)) or 0)
    except InputError as error:
        _end(2, str(error))
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        _end(2, f"out of memory ({first_line(error)}); compute less at once: a smaller batch, unit or image")


def _end(status: int, message: str) -> NoReturn:
    # A path whose bytes are no UTF-8 cannot be printed everywhere.
    print(f"error: {bounded(message)}".encode("utf-8", "backslashreplace").decode(), file=sys.stderr)
    sys.exit(status)


def _refused_by_system(error: OSError) -> str:
    """What an error of the operating system is about, what it is, and what to do about it."""
    path = error.filename2 or error.filename  # of a file that could not take its final name, the final name
    about = f"{os.fsdecode(path)}: " if isinstance(path, str | bytes | os.PathLike) else ""
    reason = error.strerror or next((str(each) for each in error.args if each), type(error).__name__)
    return f"{about}{reason}; {_REMEDIES.get(error.errno or 0, 'mend that and repeat the run')}"


def _out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, in the words of Python, of a GPU, of torch on a CPU, or of the C++ library."""
    words = ("CUDA out of memory", "can't allocate memory", "std::bad_alloc")
    return isinstance(error, MemoryError) or any(each in str(error) for each in words)


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
