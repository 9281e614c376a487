"""`python -m bench <command>`: one command per measurement. Tables go to files, chatter to standard error.

argparse, so that a bare machine with torch, numpy and pandas can run the latency harness.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from bench.commands.judge import plan, report, reproduce
from bench.commands.make import finetune, generate, latents, small_scale, stats
from bench.commands.measure import flops, latency, quality, routing
from dydit import InputError

COMMANDS = (reproduce, plan, flops, latency, generate, quality, stats, latents, finetune, small_scale, routing, report)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{self.prog}: {message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command; bad input is one line and exit status 2, `--strict` with a deviation 1."""
    try:
        options = _parser().parse_args(argv)
        sys.exit(options.run(options) or 0)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m bench",
        description="Reproduce, measure and judge the claims of Dynamic Diffusion Transformer (arXiv 2410.03456).",
    )
    commands = parser.add_subparsers(metavar="command", required=True)
    for module in COMMANDS:
        name = module.__name__.rsplit(".", 1)[1].replace("_", "-")
        added = commands.add_parser(name, help=module.HELP, description=module.HELP, allow_abbrev=False)
        added.set_defaults(run=module.run)
        out: Path | None = module.OUT
        if out is not None:
            added.add_argument("--out", type=Path, default=out, help=f"directory for the results (default {out})")
        module.arguments(added)
    return parser
