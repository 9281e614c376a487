"""`python -m bench stats`: build, merge, verify and list the reference statistics."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from bench.commands import Action
from bench.options import option
from bench.quality.references.making import make_statistics, merge_parts
from bench.quality.references.options import BuildOptions, MergeOptions, RootOptions
from bench.quality.references.tables import checks_table, references_table
from bench.quality.references.verify import verify_references
from bench.records import to_markdown


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(RootOptions):
    """Which references to check."""

    names: Sequence[str] = option((), positional=True, metavar="NAME", help="of the manifest; all by default")


def build(options: BuildOptions) -> None:
    """Build statistics."""
    make_statistics(options)


def merge(options: MergeOptions) -> None:
    """Join the statistics of parts."""
    merge_parts(options)


def verify(options: VerifyOptions) -> int:
    """Check references; status 1 if one is damaged."""
    checks = verify_references(options.names, options.data_root, options.root)
    print(to_markdown(checks_table(checks)))
    broken = [check.name for check in checks if check.broken]
    if broken:
        print(f"damaged or changed: {', '.join(broken)}", file=sys.stderr)
    return int(bool(broken))


def show(options: RootOptions) -> None:
    """Show all references."""
    print(to_markdown(references_table(options.data_root, options.root)))


ACTIONS = {
    "build": Action("make statistics of a reference of the manifest, or of own images", BuildOptions, build),
    "merge": Action("join the statistics of all parts of a data set", MergeOptions, merge),
    "verify": Action(
        "check every reference that is present, or those named; status 1 if one is damaged", VerifyOptions, verify
    ),
    "list": Action("show all references, where they come from and whether they are present", RootOptions, show),
}
