"""The headline rows at the papers' protocol: 50,000 guided images of each released model, five metrics.

The paper's claim is a comparison, and the printed values differ by less than twice the tolerance of either. So each
DyDiT also stands beside the static model as a pair, over the same labels and noise, with an interval of the ratio.

Meant for GPUs, where a model takes hours. `torchrun ... -m bench generate --out DIR/samples/NAME` with the options of
`generation` shares that among many GPUs; what is there is not made again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from bench.claims import (
    FULL_TIER,
    HEADLINE_ROWS,
    Claim,
    SummaryRow,
    Tolerance,
    find_published,
    load_published,
    published_fid_ratio,
    waiting_row,
)
from bench.data.image_set import Images
from bench.generation.generate import generate_images
from bench.generation.job import GenerationOptions
from bench.quality.measure import Quality, measure_quality
from bench.quality.metrics.distances import ADM
from bench.quality.opening import open_reference, open_samples
from bench.records import Results, portable
from bench.reproduction.paired import paired_fid_ratio
from bench.reproduction.requirements import Requirement, check_requirements, run_requirements


@dataclass(frozen=True)
class Released:
    """A model whose weights its authors published.

    `source` is the file or hub name and `network` the name of the architecture (None: the file says it). `rows` (file,
    table, row) print its quality, that of the DyDiT paper's main comparison first.
    """

    source: str
    network: str | None
    rows: tuple[tuple[str, str, str], ...]

    @property
    def row(self) -> str:
        """Its row of the main comparison."""
        return self.rows[0][2]

    @property
    def dynamic(self) -> bool:
        """Whether it is a DyDiT."""
        return self.row.startswith("DyDiT")

    @property
    def folder(self) -> str:
        """Where its images go, below `samples/`."""
        return Path(self.source).stem


@dataclass(frozen=True)
class Protocol:
    """How the headline rows were measured (method: guidance 1.5, 250 DDPM steps, VAE `ema`, fp32 with TF32)."""

    images: int = 50_000
    steps: int = 250
    vae: str | None = "sd-vae-ft-ema"
    extractor: str = "inception-v3-compat"
    reference: str = "imagenet-256"
    seed: int = 0


PAPER = Protocol()
MODELS = tuple(
    Released(source, "DyDiT-XL/2" if rows[0][2].startswith("DyDiT") else "DiT-XL/2", rows)
    for source, rows in HEADLINE_ROWS.items()
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
    requirements = [
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
    return list(dict.fromkeys(requirements))


def check_headline(
    run: str, data_root: Path | None = None, models: tuple[Released, ...] = MODELS, protocol: Protocol = PAPER
) -> None:
    """Refuse a run, named in the message, that lacks a file of the headline rows.

    Raises:
        InputError: something that the rows need is missing; all of it is named.
    """
    check_requirements(headline_requirements(data_root, models, protocol), run)


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
    results: Results,
    tier: str,
    data_root: Path | None = None,
    models: tuple[Released, ...] = MODELS,
    protocol: Protocol = PAPER,
) -> list[SummaryRow]:
    """Generate, measure and judge; writes headline.csv, and images in `samples/` of the same directory.

    A run that was broken off goes on where it stopped.

    Raises:
        InputError: something that the rows need is missing; all of it is named, before any long work.
    """
    check_headline("headline rows", data_root, models, protocol)
    out = results.directory
    table: list[dict[str, Any]] = []
    rows: list[SummaryRow] = []
    drawn: list[tuple[Released, Images]] = []
    for model in models:
        generate_images(generation(model, out, data_root, protocol))
        samples = open_samples(str(out / "samples" / model.folder))
        reference = open_reference(protocol.reference, data_root, samples.size)
        metrics = [name for name, _ in TOLERANCES.values()]
        # The paper's numbers come from the ADM evaluator, which rounds distances to half precision.
        measured = measure_quality(samples, reference, extractor=protocol.extractor, metrics=metrics, distances=ADM)
        table += [{"model": model.row} | row for row in measured.rows()]
        results.write_table(_portable(pd.DataFrame(table)), "headline")
        rows += _judged(model, measured, tier, protocol)
        drawn.append((model, samples))
    for model, samples in drawn:
        for static, baseline in drawn:
            if model.dynamic and not static.dynamic:
                ratio, low, high = paired_fid_ratio(samples, baseline, reference, protocol.extractor)
                table.append({"model": f"{model.row} / {static.row}", "metric": "FID ratio", "value": ratio})
                table[-1] |= {"low": low, "high": high, "n_samples": protocol.images, "extractor": protocol.extractor}
                rows.append(_judged_pair(model, static, (ratio, low, high), tier, protocol))
    results.write_table(_portable(pd.DataFrame(table)), "headline")
    return rows


def unmeasured_pairs(tier: str, models: tuple[Released, ...] = MODELS) -> list[SummaryRow]:
    """A `not run` row for each DyDiT beside the static model."""
    return [
        waiting_row(_pair_claim(model, static), FULL_TIER, tier)
        for model in models
        for static in models
        if model.dynamic and not static.dynamic
    ]


def _judged(model: Released, measured: Quality, tier: str, protocol: Protocol) -> list[SummaryRow]:
    """A verdict for every metric of every row that prints this model."""
    return [
        SummaryRow.judged(
            value,
            measured[name].value,
            tolerance,
            tier=tier,
            evidence=f"headline.csv: {model.row}, {name}",
            note=_drawn(protocol),
        )
        for file, place, row in model.rows
        for value in load_published(file)
        if (value.table, value.row) == (place, row) and value.metric in TOLERANCES
        for name, tolerance in [TOLERANCES[value.metric]]
    ]


def _pair_claim(model: Released, static: Released) -> Claim:
    """The claim of the main comparison that a DyDiT has a lower FID than the static model."""
    printed = find_published(model.rows[0][0], table=model.rows[0][1], row=model.row, metric="FID-50K")
    return Claim(
        claim_id=f"{printed.claim_id}-over-{static.row.lower()}",
        paper_table=printed.paper_table,
        row=f"{model.row} / {static.row}, same labels and noise",
        metric="FID-50K ratio",
        unit="x",
        value=published_fid_ratio(model.row, static.row),
        confidence="derived",
    )


def _judged_pair(
    model: Released, static: Released, ratio: tuple[float, float, float], tier: str, protocol: Protocol
) -> SummaryRow:
    claim, (value, low, high) = _pair_claim(model, static), ratio
    lower = Tolerance(math.inf, 1 - claim.value, "the claim is a lower FID: the whole paired interval lies below 1")
    evidence = f"headline.csv: {model.row} / {static.row}, FID ratio"
    return SummaryRow.judged(claim, value, lower, tier, evidence, _drawn(protocol), interval=(low, high))


def _drawn(protocol: Protocol) -> str:
    return f"{protocol.images} images, {protocol.steps} DDPM steps, {protocol.extractor}"


def _source(model: Released, data_root: Path | None) -> str:
    """A hub name as it is; a file below the data root."""
    return str((data_root or Path()) / model.source) if model.source.endswith(".pt") else model.source


def _portable(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(samples=frame["samples"].map(portable, na_action="ignore"))
