"""`python -m bench quality`: metrics of a set of images by the ADM protocol."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from dydit import InputError

if TYPE_CHECKING:
    from bench.quality.presets import Preset


HELP = "FID, sFID, IS, precision, recall and KID of a set of images"
OUT = Path("results/local")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--samples",
        metavar="PATH",
        help="directory of `generate`, .npz with arr_0 (uint8 NHWC), folder of pictures, data set NAME or NAME/SPLIT",
    )
    parser.add_argument(
        "--reference", metavar="PATH|NAME", help="as --samples, or statistics: .npz with mu, or a name of `stats list`"
    )
    parser.add_argument("--extractor", metavar="NAME", help="digits-cnn (default) or inception-v3-compat")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="of the extractor; by default torch hub's cache")
    parser.add_argument(
        "--weights-sha256", metavar="HEX", help="accept weights of this SHA-256, not the published ones"
    )
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help="of FID sFID IS precision recall KID; default all")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="where local data sets and references lie")
    parser.add_argument("--batch", type=int, metavar="N", help="images per forward pass (default 64)")
    parser.add_argument(
        "--resamples", type=int, metavar="N", help="behind each interval, 0 for none; default 100 up to 128 features"
    )
    parser.add_argument(
        "--distances",
        metavar="NAME",
        help="of precision and recall: float64 (default), or adm-float16, rounded as in the ADM evaluator",
    )
    parser.add_argument("--preset", metavar="NAME", help="a published evaluation and its verdict: adm-g-imagenet256")
    parser.add_argument("--strict", action="store_true", help="exit with status 1 when a verdict is `deviates`")


def run(options: argparse.Namespace) -> int:
    """Do what the options say; the exit status."""
    import pandas as pd

    from bench.claims.summary import overview, write_summary
    from bench.quality.features import extractors
    from bench.quality.measure import measure_quality
    from bench.quality.opening import open_reference, open_samples, samples_record
    from bench.quality.references.reference import Reference
    from bench.records import environment_record, portable, prepare_output, to_markdown, write_run, write_table

    preset = _preset(options)
    directory = prepare_output(options.out)
    weights = extractors.extractor(options.extractor).weights(options.weights, options.weights_sha256)
    samples = open_samples(options.samples, options.data_root)
    reference = open_reference(options.reference, options.data_root, samples.size)
    settings = {"extractor": options.extractor, "batch_size": options.batch, "resamples": options.resamples}
    settings["distances"] = options.distances
    record = environment_record(
        samples=samples_record(options.samples, samples),
        reference={"name": reference.name} | (reference.record if isinstance(reference, Reference) else {}),
    )
    measured = measure_quality(samples, reference, weights=weights, metrics=options.metrics, **settings)
    frame = pd.DataFrame(measured.rows()).astype({"n_reference": "Int64", "splits": "Int64"})
    frame = frame.astype(dict.fromkeys(("value", "low", "high", "std"), float))
    for column in ("samples", "reference"):
        frame[column] = frame[column].map(portable)
    write_table(frame, directory, "quality")
    asked = {"weights_sha256": weights.sha256, "metrics": list(options.metrics), "resamples": measured.resamples}
    write_run(record | {"quality": settings | asked}, directory)
    print(to_markdown(frame[["metric", "value", "low", "high", "n_samples", "n_reference", "note"]]))
    if preset is None:
        return 0
    rows = preset.judge(measured)
    write_summary(rows, directory)
    print(f"\n{overview(rows)}")
    return int(options.strict and any(row.verdict == "deviates" for row in rows))


def _preset(options: argparse.Namespace) -> Preset | None:
    """The preset asked for, its choices written into the options; without one, what was left out there.

    Raises:
        InputError: an unknown preset, one whose files are missing, choices beside it, or nothing to measure.
    """
    from bench.quality import presets
    from bench.quality.features import extraction
    from bench.quality.metrics.distances import EXACT
    from bench.quality.settings import METRICS

    chosen = [
        name
        for name in ("samples", "reference", "extractor", "metrics", "distances")
        if getattr(options, name) is not None
    ]
    options.batch = extraction.BATCH_SIZE if options.batch is None else options.batch
    if options.preset is None:
        if options.samples is None or options.reference is None:
            raise InputError("quality: give both --samples and --reference, or a --preset")
        options.extractor = options.extractor or "digits-cnn"
        options.metrics = tuple(options.metrics or METRICS)
        options.distances = options.distances or EXACT
        return None
    preset = presets.find_preset(options.preset)
    if chosen:
        raise InputError(f"--preset {preset.name} makes its own choice of {', '.join(chosen)}; leave them out")
    options.data_root = options.data_root or Path()
    options.samples, options.reference = str(preset.find(options.data_root)), preset.reference
    options.extractor, options.metrics = preset.extractor, tuple(preset.metrics)
    options.distances = preset.distances
    return preset
