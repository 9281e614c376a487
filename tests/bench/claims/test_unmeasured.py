"""What was not measured names the command that would, which exists, and what it needs; the coverage counts it."""

from __future__ import annotations

import re
import shlex
from collections import Counter

import pytest

from bench import cli
from bench.claims import (
    HEADLINE_ROWS,
    JUDGED_PAPERS,
    RELEASED_LAMBDAS,
    Claim,
    SummaryRow,
    Tolerance,
    coverage,
    load_published,
    unmeasured_rows,
)
from bench.claims.published import PublishedValue
from bench.claims.subject import KINDS, quantity_kind
from bench.claims.unmeasured import route_of
from bench.comparison.entries import parse_entries
from bench.comparison.job import ComparisonOptions
from bench.data.sets.catalogue import DATASETS
from bench.generation.job import GenerationOptions
from bench.generation.samplers import make_solver
from bench.options import read_options
from bench.training.job import FinetuneOptions, plan_training
from dydit import checkpoint, model_config
from dydit.training.published_recipes import RECIPES

ROWS = unmeasured_rows(set(), "smoke")
VALUES = {value.claim_id: value for name in JUDGED_PAPERS for value in load_published(name)}


def published(claim_id: str) -> PublishedValue:
    return VALUES[claim_id]


def test_every_number_has_a_row_that_says_what_it_waits_for() -> None:
    assert [row.claim_id for row in ROWS] == list(VALUES)
    for row in ROWS:
        if VALUES[row.claim_id].value is None:
            assert row.note.startswith("published value not transcribed") and row.needs == "the printed value"
            assert row.note.endswith(f": `{row.command}`") or "; no command measures it yet: " in row.note
        elif row.command:
            assert f"`{row.command}`" in row.note
            assert row.note.startswith("needs ") if row.needs else row.note.startswith("not asked for")
        else:
            assert row.note.startswith("no command measures it yet: ") and not row.needs
        assert row.confidence == VALUES[row.claim_id].confidence


def lines_of(command: str) -> list[str]:
    """The lines of a command, those of a loop over data sets for its first one."""
    first = re.search(r"for SET in (\w+):(\d+)", command)
    if first:
        command = command.replace("${SET%:*}", first[1]).replace("${SET#*:}", first[2])
    command = re.sub(r"for SET in [^;]+; do |; done$", "", command)
    return command.replace("--steps N", "--steps 9").split(" && ")


@pytest.mark.parametrize("line", sorted({part for row in ROWS if row.command for part in lines_of(row.command)}))
def test_every_command_that_a_row_names_exists_and_takes_these_options(line: str) -> None:
    python, flag, package, *arguments = shlex.split(line)
    assert (python, flag, package) == ("python", "-m", "bench")
    parsed = cli._parser(arguments).parse_args(arguments)
    options = vars(parsed)
    recipe = options.get("recipe")
    assert recipe is None or recipe in RECIPES
    parsed.device, parsed.tf32 = "cpu", False  # on the machine of the tests
    if arguments[0] == "compare-methods":
        chosen = read_options(parsed, ComparisonOptions)
        config = model_config(str(chosen.network), chosen.resolution)
        entries = parse_entries(chosen.methods or (), [], config, chosen.steps, trained=False)
        assert len(entries) == len({"static", *(chosen.methods or ())})
    elif arguments[0] == "finetune":
        plan_training(read_options(parsed, FinetuneOptions))
    elif arguments[0] == "generate":
        drawing = read_options(parsed, GenerationOptions)
        make_solver(drawing.sampler, drawing.steps)
    elif arguments[0] == "latents":
        assert options["data"] in DATASETS


@pytest.mark.parametrize(
    ("claim_id", "command", "needs"),
    [
        ("dydit-table8-dydit-xl-lambda-0.5-s-image", "latency --models DiT-XL/2 --lambdas 0.5", "V100"),
        ("dydit-table8-dydit-xl-lambda-0.5-flops", "--checkpoint dydit-xl-2-lambda-0.5", "published weights"),
        ("dydit-table8-dydit-s-lambda-0.4-flops", "--recipe dydit-s-0.4", "weights that nobody published"),
        ("dydit-table8-dydit-xl-lambda-0.5-fid-50k", "reproduce --tier full", "reference statistics"),
        ("dydit-table8-dydit-xl-lambda-0.3-fid-50k", "--recipe dydit-xl-0.3", "weights that nobody published"),
        (
            "dydit-table3-ii-sdt-only-imagenet-food-artbench-cars-birds-average-of-5-fid",
            "--ablation sdt-only",
            "data sets",
        ),
        ("dydit-table4-dydit-xl-ddim-fid", "--sampler ddim --steps 50", "published weights"),
        ("dit-table2-dit-xl-2-g-cfg-1.25-fid-50k", "--scale 1.25", "published weights"),
        ("dit-table3-dit-xl-2-no-guidance-ft-ema-decoder-imagenet-512-is", "--scale 1.0", "published weights"),
        ("dit-table2-biggan-deep-is", "quality --samples SAMPLES", "images of another method"),
        ("dit-table4-dit-s-8-params", "bench flops --models DiT-S/8", ""),
        ("dit-table4-dit-l-2-at-400k-steps-no-guidance-ft-mse-decoder-fid-50k", "", "training step"),
        ("dit-table6-adm-gflops", "", "no network"),
        ("dydit-table5-dydit-xl-deepcache-s-image", "--methods dydit:0.5,deepcache:2 --steps 250", "V100"),
        ("dydit-table5-dit-xl-deepcache-interval-5-fid", "--method deepcache:5", "published weights"),
        ("dydit-table4-dit-xl-10-step-dpm-solver-plus-fid", "dpm-solver++ --steps 10", "published weights"),
        (
            "dydit-table12-dit-xl-512-100-step-ddpm-imagenet-512-fid",
            "--resolution 512 --sampler ddpm --steps 100",
            "GPU",
        ),
        ("dydit-table12-dydit-xl-lambda-0.7-512-imagenet-512-s-image", "--resolution 512 --methods dydit:0.7", "V100"),
        ("dydit-table14-dit-xl-lcm-fid", "--sampler lcm --steps 4", "distilled"),
        ("dydit-table9-u-vit-s-2-cifar-10-fid", "", "another architecture"),
        ("dydit-pixart-table-pixart-alpha-coco-flops", "", "another architecture"),
        ("dydit-table2-dydit-s-lambda-0.5-cars-fid", "--data cars", "number N of iterations"),
        ("dydit-table2-tome-20-percent-birds-fid", "--new-classes 200", "data sets"),
        ("dydit-table3-iii-layer-skip-fid", "--ablation layer-skip --from FILE", "published weights"),
        ("dydit-table1-dit-l-as-printed-by-dydit-flops", "flops --models DiT-L/2", ""),
        ("dydit-table5-dydit-xl-deepcache-fid", "--method deepcache:2", "published weights"),
        (
            "dydit-table2-pruned-w-magnitude-50-percent-width-food-artbench-cars-birds-average-of-4-fid",
            "--ablation prune:magnitude:0.5",
            "data sets",
        ),
    ],
)
def test_routes(claim_id: str, command: str, needs: str) -> None:
    route = route_of(published(claim_id))
    assert command in route.command and bool(command) == bool(route.command)
    assert needs in "; ".join(route.needs) + route.why_none


def test_the_headline_rows_are_printed_and_their_checkpoints_released() -> None:
    for rows in HEADLINE_ROWS.values():
        for file, table, row in rows:
            assert any((value.table, value.row) == (table, row) for value in load_published(file)), (file, table, row)
    assert {name for name in HEADLINE_ROWS if name.startswith("dydit")} == set(checkpoint.PUBLISHED)
    assert {f"dydit-xl-2-lambda-{target}" for target in RELEASED_LAMBDAS} == set(checkpoint.PUBLISHED)


@pytest.mark.parametrize(
    ("metric", "kind"),
    [
        ("Gflops", "FLOPs"),
        ("FLOPs (MACs convention)", "FLOPs"),
        ("params", "parameters"),
        ("s/image (V100 32G, 250-step DDPM, best batch)", "speed"),
        ("acceleration", "speed"),
        ("FID-50K no guidance", "quality"),
        ("FID[digits-cnn]", "quality"),
        ("Recall", "quality"),
        ("precision[digits-cnn]", "quality"),
        ("recall[inception-v3-compat]", "quality"),
        ("KID[digits-cnn]", "quality"),
        ("warm-up iterations DiT-XL (0 for S and B)", "facts of networks and recipes"),
    ],
)
def test_kinds(metric: str, kind: str) -> None:
    assert quantity_kind(metric) == kind and kind in KINDS


def test_the_first_sentence_counts_what_the_rows_say() -> None:
    claim = Claim("a", "Paper, Table 1", "DiT", "Gflops", "G", 6.07)
    near = Tolerance.symmetric(0.005, "printed to 2 decimals")
    rows = [*ROWS, SummaryRow.judged(claim, 6.07, near, "smoke", "flops.csv")]
    text = coverage(rows)
    first = text.split(". ")[0]
    assert first.startswith(f"1 of {len(VALUES) + 1} published numbers were measured in this run (1 of FLOPs, 0 of")
    transcribed = [row for row in ROWS if row.confidence != "not-transcribed"]
    assert f"{len(transcribed)} wait: " in first
    assert f"{len(ROWS) - len(transcribed)} could not be transcribed" in first
    assets = Counter(asset for row in transcribed for asset in row.needs.split("; ") if asset)
    for asset, count in assets.items():
        assert f"{count} for {asset}" in first
    without = sum(row.note.startswith("no command") for row in transcribed)
    assert f"{without} for a command, since none measures them yet" in first
    assert re.search(r"Verdicts: 1 reproduced, 0 deviates, \d+ not run\.$", text)
