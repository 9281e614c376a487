"""The published numbers that a run did not measure: the command that would, and what that needs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bench.claims.paper_tables import HEADLINE_ROWS, RELEASED_LAMBDAS
from bench.claims.published import PublishedValue, load_published
from bench.claims.subject import FLOPS, PARAMETERS, QUALITY, SPEED, Subject, claim_subject, quantity_kind
from bench.claims.verdict import Claim, SummaryRow

JUDGED_PAPERS = ("dydit_iclr2025", "dit_iccv2023")
"""Tables of `reference_stats/paper` whose every number has a row in summary.csv."""

WEIGHTS = "published weights"
TRAINED = "weights that nobody published (training on ImageNet)"
DATA_SETS = "the fine-grained data sets and weights trained on them"
IMAGES = "images of another method"
STATISTICS = "reference statistics"
GPU = "a GPU"
V100 = "a V100 with 32 GB"

_SCORE = "python -m bench quality --samples SAMPLES --reference {} --extractor inception-v3-compat"
_COMPARED = ("Table 2", "Table 3")
"""Tables of the DiT paper that hold other methods, whose images are to be had from their authors."""
_COMPOSED = ("Table 4 (efficient samplers)", "Table 5 (DeepCache)")
"""Tables of the DyDiT paper in which it is put together with other methods."""
_PUBLISHED_STEPS = (7000, 3000)
"""Training steps, in thousands, of the DiT-XL/2 whose weights its authors published, at 256 and at 512 pixels."""
_ABLATIONS = {"I: TDW": "tdw-only", "II: SDT": "sdt-only", "I with random": "random", "III with layer": "layer-skip"}
"""Beginning of a row of the DyDiT paper's Table 3 -> name of the network among `dydit.ablations`."""


@dataclass(frozen=True)
class Route:
    """How a published number would be measured: the command and what it needs; without a command, why there is none."""

    command: str
    needs: tuple[str, ...] = ()
    why_none: str = ""

    @classmethod
    def none(cls, why: str) -> Route:
        """No command measures it yet."""
        return cls("", (), why)


FULL_TIER = Route("python -m bench reproduce --tier full --data-root DIR", (WEIGHTS, STATISTICS, GPU))
"""What the headline rows wait for."""


def unmeasured_rows(measured: set[str], tier: str) -> list[SummaryRow]:
    """A `not run` row for every number of the judged papers whose claim id is not in `measured`."""
    return [
        unmeasured_row(value, tier)
        for name in JUDGED_PAPERS
        for value in load_published(name)
        if value.claim_id not in measured
    ]


def unmeasured_row(value: PublishedValue, tier: str) -> SummaryRow:
    """The `not run` row of one published number, which names the command that would measure it, and its needs."""
    if value.value is None:
        return SummaryRow.not_transcribed(value, tier)
    return waiting_row(value, route_of(value), tier)


def waiting_row(claim: PublishedValue | Claim, route: Route, tier: str) -> SummaryRow:
    """The `not run` row of a claim that waits for what its route needs."""
    if not route.command:
        return SummaryRow.not_run(claim, tier, f"no command measures it yet: {route.why_none}")
    needs = "; ".join(route.needs)
    reason = f"needs {', '.join(route.needs)}" if route.needs else "not asked for in this run"
    return SummaryRow.not_run(claim, tier, f"{reason}: `{route.command}`", command=route.command, needs=needs)


def route_of(value: PublishedValue) -> Route:
    """The command that would measure a published number, and what that needs."""
    kind, about = quantity_kind(value.metric), claim_subject(value)
    if kind == QUALITY:
        return _quality(value, about)
    if kind == SPEED and about is not None:
        lambdas = f" --lambdas {about.target}" if about.target is not None else ""
        command = f"python -m bench latency --models {_static(about)}{lambdas} --device cuda --run-steps 250"
        return Route(command, (V100,))
    if kind in (FLOPS, PARAMETERS) and about is not None:
        return _work(about)
    if kind == SPEED and value.table in _COMPOSED:
        return Route.none(
            "no command times a published checkpoint under another sampler or a cache by name; `bench latency --model` "
            "takes a factory that loads it"
        )
    if kind in (FLOPS, PARAMETERS, SPEED):
        return Route.none(f"{value.row} names no network that is built here")
    return Route.none("nothing compares it")


def _work(about: Subject) -> Route:
    """FLOPs and parameters: those of a DyDiT are known when its masks are."""
    if about.target is None:
        return Route(f"python -m bench flops --models {about.model}")
    count = f"python -m bench flops --checkpoint {{}} --models {about.model} --lambdas {about.target}"
    if _is_released(about):
        return Route(count.format(_released(about)), (WEIGHTS, GPU))
    return Route(f"{_finetune(about)} && {count.format('DIR/model.safetensors')}", (TRAINED, GPU))


def _quality(value: PublishedValue, about: Subject | None) -> Route:
    """FID and the metrics beside it: images are generated, then scored."""
    identity = (value.source_file.removesuffix(".csv"), value.table, value.row)
    if any(identity in rows for rows in HEADLINE_ROWS.values()):
        return FULL_TIER
    steps = re.search(r"(\d+)K", value.row)
    if steps and int(steps[1]) not in _PUBLISHED_STEPS:
        return Route.none("weights of that training step are not published, and no command trains a static DiT")
    if value.source_file.startswith("dit_"):
        return _quality_of_dit(value)
    if about is not None:
        return _quality_of_size(about)
    if value.table == "Table 4 (efficient samplers)":
        return _quality_of_sampler(value)
    if value.table == "Table 5 (DeepCache)":
        return _quality_of_cache(value)
    if value.table in ("Table 2 (fine-grained)", "Table 3 (ablation)"):
        return _quality_of_fine_tuned(value)
    return Route.none(f"{value.row} is not built here")


def _quality_of_dit(value: PublishedValue) -> Route:
    """The DiT paper: DiT-XL/2 with other guidance or another decoder, and other methods."""
    pixels = value.dataset.split("-")[1]
    if "all 4 channels" in value.row:
        return Route.none("no sampler guides all four channels")
    if not value.row.startswith("DiT-XL/2"):
        needs = (IMAGES, STATISTICS)
        score = Route(_SCORE.format(f"imagenet-{pixels}"), needs)
        return score if value.table in _COMPARED else Route.none(f"{value.row} is not built here")
    scale = re.search(r"cfg=([\d.]+)", value.row)
    guidance = f" --scale {float(scale[1]) if scale else 1.0 if 'no guidance' in value.row else 1.5}"
    decoder = " --vae sd-vae-ft-mse" if "ft-MSE" in value.row else " --vae DIR" if "original" in value.row else ""
    size = f"--checkpoint DiT-XL-2-{pixels}x{pixels}.pt --model DiT-XL/2 --resolution {pixels}"
    return _generated(f"{size}{guidance}{decoder}", f"imagenet-{pixels}", (WEIGHTS, STATISTICS, GPU))


def _quality_of_size(about: Subject) -> Route:
    """A row of Table 8 whose weights the authors kept."""
    if about.target is None:
        return _generated(f"--checkpoint FILE --model {about.model}", "imagenet-256", (WEIGHTS, STATISTICS, GPU))
    route = _generated("--checkpoint DIR/model.safetensors", "imagenet-256", (TRAINED, STATISTICS, GPU))
    return Route(f"{_finetune(about)} && {route.command}", route.needs)


def _quality_of_sampler(value: PublishedValue) -> Route:
    """DyDiT-XL at lambda 0.5 with another sampler; how many steps follows from the printed times."""
    for name, options in {
        "DDIM": "--sampler ddim --steps 50",
        "DPM-solver++": "--sampler dpm-solver++ --steps 20",
    }.items():
        if value.row == f"DyDiT-XL + {name}":
            model = "--checkpoint dydit-xl-2-lambda-0.5 --model DyDiT-XL/2"
            return _generated(f"{model} {options}", "imagenet-256", (WEIGHTS, STATISTICS, GPU))
    return Route.none(f"{value.row} is not built here")


def _quality_of_cache(value: PublishedValue) -> Route:
    """DyDiT-XL at lambda 0.5 under DeepCache; the interval follows from the printed times."""
    if value.row != "DyDiT-XL + DeepCache":
        return Route.none(f"{value.row} is not built here")
    options = "--checkpoint dydit-xl-2-lambda-0.5 --model DyDiT-XL/2 --method deepcache:2"
    return _generated(options, "imagenet-256", (WEIGHTS, STATISTICS, GPU))


def _quality_of_fine_tuned(value: PublishedValue) -> Route:
    """Size S, trained on each of several data sets and averaged: one command for each of them."""
    if value.confidence == "derived":
        return Route.none("it repeats another row")
    names = [name for start, name in _ABLATIONS.items() if value.row.startswith(start)]
    if pruned := re.match(r"pruned w/ (\w+)", value.row):
        names = [f"prune:{pruned[1]}:0.5"]
    change = " --ablation static" if value.row == "DiT-S" else f" --ablation {names[0]}" if names else ""
    train = f"python -m bench finetune --recipe dydit-s-0.5{change} --from FILE --data NAME --device cuda --out DIR"
    route = _generated("--checkpoint DIR/model.safetensors", "NAME", (DATA_SETS, STATISTICS, GPU))
    return Route(f"{train} && {route.command}", route.needs)


def _generated(options: str, reference: str, needs: tuple[str, ...]) -> Route:
    command = f"python -m bench generate {options} --images 50000 --device cuda --tf32 --out SAMPLES"
    return Route(f"{command} && {_SCORE.format(reference)}", needs)


def _finetune(about: Subject) -> str:
    size = about.model.removeprefix("DyDiT-").split("/")[0].lower()
    recipe = f"--recipe dydit-{size}-{about.target} --from FILE --data LATENTS"
    return f"python -m bench finetune {recipe} --device cuda --out DIR"


def _static(about: Subject) -> str:
    return about.model.removeprefix("Dy")


def _is_released(about: Subject) -> bool:
    return about.model == "DyDiT-XL/2" and about.resolution == 256 and about.target in RELEASED_LAMBDAS


def _released(about: Subject) -> str:
    return f"dydit-xl-2-lambda-{about.target}"
