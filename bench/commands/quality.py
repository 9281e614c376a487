"""`python -m bench quality`: metrics of a set of images."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "FID, IS, precision and recall of a set of images"
OUT = Path("results/local")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--samples", required=True, metavar="FILE", help=".npz with arr_0, uint8 (N, H, W, C)")
    parser.add_argument("--reference", required=True, metavar="FILE", help=".npz as above, or digits")
    parser.add_argument("--extractor", default="digits-cnn", help="digits-cnn or inception-v3-compat")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="the extractor's weights, if not committed")
    parser.add_argument("--interval", action="store_true", help="95 %% interval of the FID; slow for 2,048 features")


def run(options: argparse.Namespace) -> None:
    """Do what the options say."""
    import pandas as pd

    from bench import environment, features, images, quality, results

    features.extractor(options.extractor).weights(options.weights)
    samples, reference = images.load(options.samples), images.load(options.reference)
    directory = results.prepare_output(options.out)
    record = environment.record()
    score = quality.evaluate(samples, reference, extractor=options.extractor, weights=options.weights)
    frame = pd.DataFrame([{"samples": options.samples, "reference": options.reference} | row for row in score.rows()])
    if options.interval:
        interval = quality.fid_interval(samples, reference, extractor=options.extractor, weights=options.weights)
        frame.loc[frame["metric"].str.startswith("FID["), ["low", "high"]] = interval
    results.write_table(frame, directory, "quality")
    results.write_run(record, directory)
    print(results.to_markdown(frame[["metric", "value", "n_samples", "n_reference"]]))
