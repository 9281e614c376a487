"""The whole of `bench quality`: what the options ask for, measured, written, and judged where a preset was named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bench.claims import SummaryRow, write_summary
from bench.options import BATCH, DataOptions, ExtractorOptions, OutputOptions, Range, StrictOptions, option
from bench.quality.features import BATCH_SIZE, EXTRACTORS, extractor
from bench.quality.measure import Quality, measure_quality
from bench.quality.metrics.distances import EXACT
from bench.quality.opening import open_reference, open_samples, reference_record, samples_record
from bench.quality.presets import Preset, find_preset
from bench.quality.settings import METRICS, measurable
from bench.records import environment_record, portable, take_results
from dydit import InputError

EXTRACTOR = "digits-cnn"
"""Unless options or a preset name another."""
SHOWN = ["metric", "value", "low", "high", "n_samples", "n_reference", "note"]
"""The columns of quality.csv that people are shown."""


@dataclass(frozen=True, kw_only=True)
class QualityOptions(ExtractorOptions, StrictOptions, DataOptions, OutputOptions):
    """What to measure: samples against a reference, or a preset."""

    samples: str | None = option(
        None,
        metavar="PATH",
        help="directory of `generate`, .npz with arr_0 (uint8 NHWC), folder of pictures, data set NAME or NAME/SPLIT",
    )
    reference: str | None = option(
        None, metavar="PATH|NAME", help="as --samples, or statistics: .npz with mu, or a name of `stats list`"
    )
    extractor: str | None = option(None, metavar="NAME", help=f"of {' '.join(EXTRACTORS)} ({EXTRACTOR} by default)")
    metrics: Sequence[str] | None = option(
        None, metavar="NAME", help=f"of {' '.join(METRICS)}; all that the extractor has"
    )
    batch: int = option(BATCH_SIZE, metavar="N", help="images per forward pass", within=BATCH)
    resamples: int | None = option(
        None,
        metavar="N",
        help="behind each interval, 0 for none; default 100 up to 128 features",
        within=Range(0, 100_000),
    )
    distances: str | None = option(
        None,
        metavar="NAME",
        help=f"of precision and recall: {EXACT} (default), or adm-float16, rounded as in the ADM evaluator",
    )
    paired: Path | None = option(
        None,
        metavar="DIR",
        help="instead of a reference: compare image by image with this run of `generate` of the same seed",
    )
    preset: str | None = option(None, metavar="NAME", help="a published evaluation and its verdict: adm-g-imagenet256")


@dataclass(frozen=True)
class QualityJob:
    """What is measured, by the options or by the preset that they name; files are named, and not opened yet."""

    samples: str
    reference: str
    extractor: str
    metrics: tuple[str, ...]
    distances: str
    data_root: Path | None
    preset: Preset | None


def plan_quality(options: QualityOptions) -> QualityJob:
    """The job that the options describe.

    Raises:
        InputError: an unknown preset, one whose files are missing, choices beside it, or nothing to measure.
    """
    if options.preset is None:
        if options.samples is None or options.reference is None:
            raise InputError("quality: give --samples with --reference or --paired, or a --preset")
        name = options.extractor or EXTRACTOR
        return QualityJob(
            samples=options.samples,
            reference=options.reference,
            extractor=name,
            metrics=tuple(options.metrics or measurable(extractor(name))),
            distances=options.distances or EXACT,
            data_root=options.data_root,
            preset=None,
        )
    preset = find_preset(options.preset)
    choices = ("samples", "reference", "extractor", "metrics", "distances")
    options.refuse(choices, f"--preset {preset.name} makes its own choice")
    root = options.data_root or Path()
    return QualityJob(
        samples=str(preset.find(root)),
        reference=preset.reference,
        extractor=preset.extractor,
        metrics=tuple(preset.metrics),
        distances=preset.distances,
        data_root=root,
        preset=preset,
    )


def run_quality(options: QualityOptions) -> tuple[pd.DataFrame, list[SummaryRow]]:
    """Measure, and write quality.csv, run.json and, with a preset, summary.csv to `options.out`.

    Returns:
        The table, and the verdicts of the preset (none without one).

    Raises:
        InputError: as `plan_quality`, or images, weights or a reference that cannot be used; before any long work.
    """
    job = plan_quality(options)
    with take_results(options.out) as results:
        weights = extractor(job.extractor).weights(options.extractor_weights, options.weights_sha256)
        samples = open_samples(job.samples, job.data_root)
        reference = open_reference(job.reference, job.data_root, samples.size)
        record = environment_record(samples=samples_record(job.samples, samples), reference=reference_record(reference))
        settings: dict[str, Any] = {
            "extractor": job.extractor,
            "batch_size": options.batch,
            "resamples": options.resamples,
            "distances": job.distances,
        }
        measured = measure_quality(samples, reference, weights=weights, metrics=job.metrics, **settings)
        table = quality_table(measured)
        results.write_table(table, "quality")
        rows = [] if job.preset is None else job.preset.judge(measured)
        if rows:
            write_summary(rows, results)
        done = {"weights_sha256": weights.sha256, "metrics": list(job.metrics), "resamples": measured.resamples}
        results.write_record(record | {"quality": settings | done})
    return table, rows


def quality_table(measured: Quality) -> pd.DataFrame:
    """`quality.csv`: one row per metric; counts are whole numbers, paths are as they may be published."""
    table = pd.DataFrame(measured.rows()).astype({"n_reference": "Int64", "splits": "Int64"})
    table = table.astype(dict.fromkeys(("value", "low", "high", "std"), float))
    for column in ("samples", "reference"):
        table[column] = table[column].map(portable)
    return table
