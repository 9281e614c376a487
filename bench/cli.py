"""`python -m bench <command>`: one command per measurement. Tables go to files, chatter to standard error."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from dydit.errors import InputError

app = typer.Typer(
    help="Reproduce, measure and judge the claims of Dynamic Diffusion Transformer (arXiv 2410.03456).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Out = Annotated[Path, typer.Option(help="Directory for the tables and run.json.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with status 1 when a verdict is `deviates`.")]


@app.command()
def reproduce(
    out: Out = Path("results/local"),
    tier: Annotated[str, typer.Option(help="smoke (3 minutes), default (15 minutes) or full.")] = "default",
    checkpoints: Annotated[Path | None, typer.Option(help="Study checkpoints, if not the committed ones.")] = None,
    strict: Strict = False,
) -> None:
    """Measure everything that can be measured here and give every published number a verdict."""
    from bench import report, reproduce, small_scale

    rows = reproduce.reproduce(out, tier, checkpoints or small_scale.DIRECTORY)
    print(report.overview(rows))
    print(f"\n{len(rows)} rows in {out}/summary.csv and summary.md")
    _gate([row.verdict for row in rows], strict)


@app.command()
def flops(
    out: Out = Path("results/local"),
    models: Annotated[list[str] | None, typer.Option(help="Model names, such as DiT-XL/2; all by default.")] = None,
    lambdas: Annotated[list[float] | None, typer.Option(help="FLOPs targets; the paper's by default.")] = None,
    strict: Strict = False,
) -> None:
    """Count FLOPs and parameters at true scale, without weights, and compare with both papers."""
    from bench import environment, flops, report, results

    directory = results.prepare_output(out)
    record = environment.record()
    rows = flops.run(directory, "default", models=models, lambdas=lambdas)
    results.write_summary(rows, directory)
    results.write_run(record, directory)
    print(report.overview(rows))
    _gate([row.verdict for row in rows], strict)


@app.command("small-scale")
def small_scale(
    out: Annotated[Path, typer.Option(help="Directory for the trained files.")] = Path("results/local/small-scale"),
    shorten: Annotated[int, typer.Option(min=1, help="Divide every step count, for a trial.")] = 1,
) -> None:
    """Train the digits classifier, the tiny DiT, its control and DyDiT from nothing."""
    from bench import results, small_scale

    small_scale.train_all(results.prepare_output(out), shorten)
    print(f"trained files in {out}; judge them with: python -m bench reproduce --checkpoints {out}")


@app.command()
def report(
    results_directory: Annotated[Path, typer.Option("--results", help="Results to show, with summary.csv.")],
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit 1 if README.md is out of date.")] = False,
) -> None:
    """Write the main table of README.md from a run's summary.csv."""
    from bench import report

    if not report.update_readme(results_directory, check=check) and check:
        print("README.md does not show these results; run `nox -s report`", file=sys.stderr)
        raise typer.Exit(1)


def _gate(verdicts: list[str], strict: bool) -> None:
    counts = Counter(verdicts)
    if strict and counts["deviates"]:
        raise typer.Exit(1)


def main() -> None:
    """Run the command line; bad input is one line and exit status 2."""
    try:
        app()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
