"""What a published row is about: a network of this project, and which kind of quantity is printed."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bench.claims.published import PublishedValue

FLOPS, PARAMETERS, FACTS, SPEED, QUALITY = KINDS = (
    "FLOPs",
    "parameters",
    "facts of networks and recipes",
    "speed",
    "quality",
)
_KIND_OF = {
    "Gflops": FLOPS,
    "FLOPs": FLOPS,
    "params": PARAMETERS,
    "s/image": SPEED,
    "acceleration": SPEED,
    "throughput": SPEED,
    "FID": QUALITY,
    "sFID": QUALITY,
    "IS": QUALITY,
    "KID": QUALITY,
    "Precision": QUALITY,
    "Recall": QUALITY,
    # As quality.csv writes them, with their extractor.
    "precision": QUALITY,
    "recall": QUALITY,
}


def quantity_kind(metric: str) -> str:
    """One of `KINDS` for the name of a metric, such as `FID-50K` or `FLOPs (MACs convention)`."""
    return _KIND_OF.get(re.split(r"[-\[ ]", metric, maxsplit=1)[0], FACTS)


@dataclass(frozen=True)
class Subject:
    """The network that a published row is about; `target` is lambda, None for a static DiT."""

    model: str
    resolution: int
    target: float | None


_ROW = re.compile(
    r"(?P<kind>DiT|DyDiT)-(?P<size>XL|S|B|L)(?P<patch>/\d)?(?: static)?(?: lambda=(?P<target>[\d.]+))?"
    r"(?: pre-trained for .* iterations)?(?: 512)?(?: as printed by DyDiT)?"
)


def claim_subject(value: PublishedValue) -> Subject | None:
    """The network of a published row; None where it is another architecture or made for other data."""
    match = _ROW.fullmatch(value.row)
    if match is None or value.dataset not in ("ImageNet-256", "ImageNet-512"):
        return None
    model = f"{match['kind']}-{match['size']}{match['patch'] or '/2'}"  # The DyDiT paper writes no patch: all are 2.
    target = float(match["target"]) if match["kind"] == "DyDiT" and match["target"] else None
    return Subject(model, int(value.dataset.split("-")[1]), target)
