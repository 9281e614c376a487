"""Pictures that runs left as files, each with words that say what it shows."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.report.runs import Run

BUDGET = 1_500_000
"""Bytes of all pictures of a page: with everything else it stays below 3 MB."""
_WORDS = {
    "routing_tokens": ("Token maps", "the first images beside the tokens that pass the MLPs, at steps of the run"),
    "routing_widths": ("Open shares by timestep and layer", "heads, channel groups and tokens open, light is open"),
    "routing_positions": (
        "Tokens by position",
        "the rate of tokens that pass the MLP by position, a panel for each layer",
    ),
    "routing_classes": ("Work by class", "FLOPs ratio by label with the standard error of each mean"),
    "pairs": (
        "Static beside dynamic",
        "images of two models from equal noise, one below the other, and below both how far they differ",
    ),
    "preview": ("Samples", "the first images of a run of generate"),
}
"""File name -> title, and what is to be seen."""


@dataclass(frozen=True)
class Picture:
    """A picture of the page: `address` holds the file itself, so that nothing is fetched; empty: no room for it."""

    title: str
    alt: str
    run: str
    file: str
    address: str
    command: str


def pictures(runs: Sequence[Run]) -> Iterator[Picture]:
    """All pictures of the runs, in their order; those beyond the budget come without an address."""
    room = BUDGET
    for run in runs:
        for path in run.pictures:
            title, seen = _WORDS.get(path.stem, (path.stem.replace("_", " "), "a picture that the run left"))
            data = path.read_bytes()
            room -= len(data)
            address = f"data:image/png;base64,{base64.b64encode(data).decode()}" if room >= 0 else ""
            name = run.place.rpartition("/")[2]
            yield Picture(title, f"{title} of {name}: {seen}.", run.place, path.name, address, run.command())
