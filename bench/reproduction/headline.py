"""The headline rows at the paper's protocol: 50,000 guided images of each released model, five metrics (Table 1).

Meant for GPUs, where a model takes hours. `torchrun ... -m bench generate --out DIR/samples/NAME` with the options of
`generation` shares that among many GPUs; what is there is not made again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from bench.claims.published import find_published
from bench.claims.verdict import SummaryRow, Tolerance
from bench.generation.generate import generate_images
from bench.generation.job import GenerationOptions
from bench.quality.measure import measure_quality
from bench.quality.opening import open_reference, open_samples
from bench.records import portable, write_table
from bench.reproduction.requirements import Requirement, check_requirements, run_requirements

TABLE = "Table 1 (main comparison)"


@dataclass(frozen=True)
class Released:
    """A model whose weights its authors published: the file or hub name, the network, the row of `TABLE`."""

    source: str
    network: str | None
    row: str

    @property
    def folder(self) -> str:
        """Where its images go, below `samples/`."""
        return Path(self.source).stem


@dataclass(frozen=True)
class Protocol:
    """How the rows of `TABLE` were measured (method: guidance 1.5, 250 DDPM steps, VAE `ema`, fp32 with TF32)."""

    images: int = 50_000
    steps: int = 250
    vae: str | None = "sd-vae-ft-ema"
    extractor: str = "inception-v3-compat"
    reference: str = "imagenet-256"
    seed: int = 0


PAPER = Protocol()
MODELS = (
    Released("dydit-xl-2-lambda-0.7", "DyDiT-XL/2", "DyDiT-XL lambda=0.7"),
    Released("dydit-xl-2-lambda-0.5", "DyDiT-XL/2", "DyDiT-XL lambda=0.5"),
    Released("DiT-XL-2-256x256.pt", "DiT-XL/2", "DiT-XL"),
)
_OTHER_SEED = (
    "other random images, and InceptionV3 in PyTorch: the DiT release itself reports 2.21 where its paper has 2.27"
)
TOLERANCES = {
    "FID-50K": ("FID", Tolerance.symmetric(0.1, _OTHER_SEED)),
    "sFID": ("sFID", Tolerance.symmetric(0.2, f"twice that of the FID, whose value is half as large; {_OTHER_SEED}")),
    "IS": ("IS", Tolerance.symmetric(6.0, f"2 % of the largest; {_OTHER_SEED}")),
    "Precision": ("precision", Tolerance.symmetric(0.01, "printed to 2 decimals; half a unit more for other images")),
    "Recall": ("recall", Tolerance.symmetric(0.01, "printed to 2 decimals; half a unit more for other images")),
}
"""Metric as printed -> its name in `bench.quality`, and how far a faithful repetition may lie from it."""


def headline_requirements(
    data_root: Path | None = None, models: tuple[Released, ...] = MODELS, protocol: Protocol = PAPER
) -> list[Requirement]:
    """What the rows need of files and disk, each once.

    Args:
        data_root: directory of downloaded files: the reference, and checkpoints that no hub name stands for.
        models: what `measure_headline` will measure.
        protocol: see `Protocol`.
    """
    found = [
        need
        for model in models
        for need in run_requirements(
            _source(model, data_root),
            vae=protocol.vae,
            reference=protocol.reference,
            extractor=protocol.extractor,
            data_root=data_root,
        )
    ]
    return list(dict.fromkeys(found))


def generation(
    model: Released, out: Path, data_root: Path | None = None, protocol: Protocol = PAPER
) -> GenerationOptions:
    """The options of `bench generate` for one model: images below `out`/samples."""
    cuda = torch.cuda.is_available()
    return GenerationOptions(
        checkpoint=_source(model, data_root),
        out=out / "samples" / model.folder,
        images=protocol.images,
        model=model.network,
        steps=protocol.steps,
        seed=protocol.seed,
        device="cuda" if cuda else "cpu",
        tf32=cuda,
        vae=protocol.vae,
    )


def measure_headline(
    out: Path,
    tier: str,
    data_root: Path | None = None,
    models: tuple[Released, ...] = MODELS,
    protocol: Protocol = PAPER,
) -> list[SummaryRow]:
    """Generate, measure and judge; writes `out`/headline.csv and images below `out`/samples.

    A run that was broken off goes on where it stopped.

    Raises:
        InputError: something that the rows need is missing; all of it is named, before any long work.
    """
    check_requirements(headline_requirements(data_root, models, protocol), "headline rows")
    table: list[dict[str, Any]] = []
    rows: list[SummaryRow] = []
    for model in models:
        generate_images(generation(model, out, data_root, protocol))
        samples = open_samples(str(out / "samples" / model.folder))
        reference = open_reference(protocol.reference, data_root, samples.size)
        metrics = [name for name, _ in TOLERANCES.values()]
        measured = measure_quality(samples, reference, extractor=protocol.extractor, metrics=metrics)
        table += [{"model": model.row} | row for row in measured.rows()]
        write_table(_portable(pd.DataFrame(table)), out, "headline")
        rows += [
            SummaryRow.judged(
                find_published("dydit_iclr2025", table=TABLE, row=model.row, metric=printed),
                measured[name].value,
                tolerance,
                tier=tier,
                evidence=f"headline.csv: {model.row}, {name}",
                note=f"{protocol.images} images, {protocol.steps} DDPM steps, {protocol.extractor}",
            )
            for printed, (name, tolerance) in TOLERANCES.items()
        ]
    return rows


def _source(model: Released, data_root: Path | None) -> str:
    """A hub name as it is; a file below the data root."""
    return str((data_root or Path()) / model.source) if model.source.endswith(".pt") else model.source


def _portable(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(samples=frame["samples"].map(portable))
