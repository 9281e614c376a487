"""docs/reliability.md, from the outcomes of all faults."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from fault_harness import KINDS, LOST, REFUSED, SAME, Outcome

from bench.records import to_markdown

HEAD = """# Reliability

What a run leaves after a fault, and what it promises. This page is written by `python -m nox -s faults`, which
disturbs every command below at its smallest size, runs the same line again, and compares every byte with what an
undisturbed run leaves. A few of these faults are tried in every run of the tests (`tests/faults/`).

"""
PROMISES = """
## What is promised

- **Whole or absent.** Every file is written beside its place and renamed when it is complete, but for the two logs of
  `finetune`, which are written anew from the checkpoint that a run goes on from. `run.json` is removed before the
  first table or figure of a run is written, and written last: it never stands beside files of another run, and it
  holds their SHA-256.
- **The same line again.** After a kill, `generate`, `finetune`, `latents`, `small-scale` and `compare-methods` go on
  from what is whole, and the others begin anew; both end with the bytes of a run that nobody stopped. Half-written
  files are removed at the next start.
- **What is read back is compared.** Records, manifests and kept scores hold a checksum of their content. Tables,
  latents, statistics, images behind kept scores and the models that come with the project are compared with the
  SHA-256 in such a record or list. Weights in safetensors hold a checksum of tensors and record. Members of .npz and
  PyTorch files are compared with their CRC-32, and PNG files with the images of their unit. What has changed is made
  again where the run can do that, and refused in one line with the remedy where it cannot.
- **The last whole checkpoint stays.** `finetune` passes over damaged checkpoints, and never keeps one in the place of
  a whole one.
- **One at a time.** A directory belongs to one run; a second one is refused in one line. The lock ends with its
  process. `stats` takes the name of its statistics alone, so that parts can be built in one directory at once.
- **Processes of one run agree first.** Before the first unit or step they compare options, checksums of weights, data
  and the checkpoint to go on from, the code, and the versions of Python and the libraries; in `generate` also that
  they see one directory.

## What is not promised

- A power cut: files are not forced to the disk before they are renamed. What a file system loses or mixes up is found
  by the checksums.
- Weights, images and data sets of others that carry no checksum, and damage that fits the checksum.
- Locks on a file system that has none: files are whole there, too, but two runs are not kept apart.
- Equal images from processes on different kinds of GPU, which round differently.
"""


def write_page(outcomes: Sequence[Outcome], page: Path) -> None:
    """Write the page."""
    counts = Counter(outcome.verdict for outcome in outcomes)
    commands = len({outcome.command for outcome in outcomes})
    lines = [
        f"{len(outcomes)} faults were tried on {commands} commands. After {counts[SAME]} of them the same line left "
        f"the bytes of an undisturbed run; after {counts[REFUSED]} it was refused in one line with the remedy and exit "
        f"status 2, and nothing that was whole had changed; {counts[LOST]} were lost.",
        "",
        "In a cell: same + refused, and lost where there were any.",
        "",
        to_markdown(table(outcomes)),
        "",
        *(f"- **{kind}**: {words}" for kind, words in KINDS.items()),
    ]
    page.write_text(HEAD + "\n".join(lines) + "\n" + PROMISES, encoding="utf-8")


def table(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """One row per command, one column per kind of fault."""
    rows = []
    for command in dict.fromkeys(outcome.command for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.command == command]
        row: dict[str, object] = {"command": f"`{command}`", "faults": len(own)}
        for kind in KINDS:
            found = Counter(outcome.verdict for outcome in own if outcome.kind == kind)
            lost = f", {found[LOST]} lost" if found[LOST] else ""
            row[kind] = f"{found[SAME]} + {found[REFUSED]}{lost}" if found else ""
        rows.append(row)
    return pd.DataFrame(rows)
