"""`python -m bench <command>`: one command per measurement. Tables go to files, chatter to standard error.

argparse, so that a bare machine with torch, numpy and pandas can run the latency harness.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from dydit.errors import InputError

LOCAL = Path("results/local")


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

    def command(name: str, run: object, text: str, out: Path | None = LOCAL) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        added.set_defaults(run=run)
        if out is not None:
            added.add_argument("--out", type=Path, default=out, help=f"directory for the results (default {out})")
        return added

    strict = {"action": "store_true", "help": "exit with status 1 when a verdict is `deviates`"}
    all_ = command("reproduce", _reproduce, "measure what can be measured here and judge every published number")
    all_.add_argument("--tier", default="default", help="smoke (3 minutes), default (15 minutes) or full")
    all_.add_argument("--checkpoints", type=Path, help="study checkpoints, if not the committed ones")
    all_.add_argument("--strict", **strict)  # type: ignore[arg-type]

    flops = command("flops", _flops, "count FLOPs and parameters at true scale, without weights")
    flops.add_argument("--models", nargs="+", metavar="NAME", help="such as DiT-XL/2; all by default")
    flops.add_argument("--lambdas", nargs="+", type=float, metavar="L", help="FLOPs targets; the paper's by default")
    flops.add_argument("--checkpoint", metavar="FILE", help="trained DyDiT of the one model and lambda given")
    flops.add_argument("--images", type=int, default=8, help="images sampled with --checkpoint")
    flops.add_argument("--steps", type=int, default=250, help="DDPM steps with --checkpoint")
    flops.add_argument("--strict", **strict)  # type: ignore[arg-type]

    latency = command("latency", _latency, "time static, masked and realised inference in turns")
    latency.add_argument("--models", nargs="+", metavar="NAME", default=["DiT-S/2", "DiT-B/2"], help="such as DiT-B/2")
    latency.add_argument("--lambdas", nargs="+", type=float, metavar="L", help="the paper's by default")
    latency.add_argument("--batch", nargs="+", type=int, default=[1, 2, 4, 8], help="images; guidance doubles the rows")
    latency.add_argument("--profiles", nargs="+", metavar="P", help="even, width-heavy, token-heavy; all by default")
    latency.add_argument("--device", default="cpu", help="cpu or cuda")
    latency.add_argument("--dtype", default="fp32", help="fp32 or bf16")
    latency.add_argument("--resolution", nargs="+", type=int, default=[256], help="pixels, such as 256 512")
    latency.add_argument("--threads", type=int, help="CPU threads")
    latency.add_argument("--seconds", type=float, default=30.0, help="time to spend on one model and batch")
    latency.add_argument("--run-steps", type=int, default=5, help="sampling steps measured for s/image; 250 is all")
    latency.add_argument("--graphs", action="store_true", help="capture static and realised forwards as CUDA graphs")
    latency.add_argument("--diffusers", action="store_true", help="time diffusers' DiT with the same weights, too")
    latency.add_argument("--profile", action="store_true", help="break a forward into its parts instead of timing runs")
    latency.add_argument("--seed", type=int, default=0, help="of weights, inputs and routing")

    quality = command("quality", _quality, "FID, IS, precision and recall of a set of images")
    quality.add_argument("--samples", required=True, metavar="FILE", help=".npz with arr_0, uint8 (N, H, W, C)")
    quality.add_argument("--reference", required=True, metavar="FILE", help=".npz as above, or digits")
    quality.add_argument("--extractor", default="digits-cnn", help="digits-cnn or inception-v3-compat")
    quality.add_argument("--weights", type=Path, metavar="FILE", help="the extractor's weights, if not committed")
    quality.add_argument("--interval", action="store_true", help="95 %% interval of the FID; slow for 2,048 features")

    small = command("small-scale", _small_scale, "train the digits study from nothing", LOCAL / "small-scale")
    small.add_argument("--shorten", type=int, default=1, metavar="N", help="divide every step count, for a trial")

    report = command("report", _report, "write the main table of README.md from a run", out=None)
    report.add_argument("--results", type=Path, help="directory with summary.csv and run.json; the committed one else")
    report.add_argument("--check", action="store_true", help="change nothing; exit 1 if README.md is out of date")
    return parser


def _reproduce(options: argparse.Namespace) -> int:
    from bench import report, reproduce, small_scale

    rows = reproduce.reproduce(options.out, options.tier, options.checkpoints or small_scale.DIRECTORY)
    print(report.overview(rows))
    print(f"\n{len(rows)} rows in {options.out}/summary.csv and summary.md")
    return int(options.strict and any(row.verdict == "deviates" for row in rows))


def _flops(options: argparse.Namespace) -> int:
    from bench import environment, flops, flops_checkpoint, report, results

    directory = results.prepare_output(options.out)
    record = environment.record()
    claimed = []
    if options.checkpoint is not None:
        if len(options.models or []) != 1 or len(options.lambdas or []) != 1:
            raise InputError("--checkpoint: name its model and lambda, as in --models DyDiT-XL/2 --lambdas 0.5")
        claimed.append(
            flops_checkpoint.measure_checkpoint(
                options.checkpoint,
                options.models[0],
                target=options.lambdas[0],
                images=options.images,
                steps=options.steps,
            )
        )
    rows = flops.run(directory, "default", models=options.models, lambdas=options.lambdas, claimed=claimed)
    results.write_summary(rows, directory)
    results.write_run(record, directory)
    print(report.overview(rows))
    return int(options.strict and any(row.verdict == "deviates" for row in rows))


def _latency(options: argparse.Namespace) -> None:
    from bench import latency, latency_cases, results, synthetic, timing

    plans = [
        latency_cases.Options(
            models=options.models,
            lambdas=options.lambdas,
            batch=options.batch,
            device=options.device,
            dtype=options.dtype,
            profiles=options.profiles or synthetic.PROFILES,
            resolution=resolution,
            seed=options.seed,
            threads=options.threads,
            run_steps=options.run_steps,
            graphs=options.graphs,
            diffusers=options.diffusers,
            budget=timing.Budget(seconds=options.seconds),
        )
        for resolution in options.resolution
    ]
    directory = results.prepare_output(options.out)
    if options.profile:
        print(results.to_markdown(latency.run_profile(plans[0], directory)))
        return
    frame = latency.run(plans, directory)
    shown = [
        "model",
        "resolution",
        "lambda",
        "batch",
        "engine",
        "profile",
        "ms_median",
        "speedup",
        "limit",
        "efficiency",
    ]
    print(results.to_markdown(frame[[*shown, "published_speedup"]]))


def _quality(options: argparse.Namespace) -> None:
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


def _small_scale(options: argparse.Namespace) -> None:
    from bench import results, small_scale

    if options.shorten < 1:
        raise InputError(f"--shorten {options.shorten}: give a whole number from 1")
    small_scale.train_all(results.prepare_output(options.out), options.shorten)
    print(f"trained files in {options.out}; judge them with: python -m bench reproduce --checkpoints {options.out}")


def _report(options: argparse.Namespace) -> int:
    from bench import report

    current = report.update_readme(options.results or report.committed_run(), check=options.check)
    if options.check and not current:
        print("README.md does not show these results; run `nox -s report`", file=sys.stderr)
    return int(options.check and not current)
