"""The published numbers that a run did not measure: the command that would, and what that needs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bench.claims.paper_tables import HEADLINE_ROWS, RELEASED_LAMBDAS
from bench.claims.published import PublishedValue, load_published
from bench.claims.subject import FLOPS, PARAMETERS, QUALITY, SPEED, Subject, claim_subject, quantity_kind
from bench.claims.verdict import Claim, SummaryRow
from bench.data.sets.catalogue import DATASETS

JUDGED_PAPERS = ("dydit_iclr2025", "dit_iccv2023")
"""Tables of `reference_stats/paper` whose every number has a row in summary.csv."""

WEIGHTS = "published weights"
TRAINED = "weights that nobody published (training on ImageNet)"
DISTILLED = "weights of a distilled consistency model, which nobody published and no command trains"
DATA_SETS = "the fine-grained data sets"
ITERATIONS = "the paper's number N of iterations on these data sets"
IMAGES = "images of another method"
STATISTICS = "reference statistics"
GPU = "a GPU"
V100 = "a V100 with 32 GB"

_SCORE = "python -m bench quality --samples {} --reference {} --extractor inception-v3-compat"
_COMPARED = ("Table 2", "Table 3")
"""Tables of the DiT paper that hold other methods, whose images are to be had from their authors."""
_COMPOSED = ("Table 4", "Table 5", "Table 12 (512x512", "Table 14")
"""Beginnings of tables of the DyDiT paper in which size XL is put together with other methods, or draws 512 pixels."""
_COMPOSED_ROW = re.compile(
    r"(?P<kind>Dy)?DiT-XL(?: lambda=(?P<target>[\d.]+))?(?P<pixels> 512)?(?: \(100-step DDPM\))?"
    r"(?: \+ (?:(?P<steps>\d+)-step )?(?P<other>DDIM|DPM-solver\+\+|DeepCache|LCM)(?: interval (?P<interval>\d+))?)?"
)
_STEPS = {"DDIM": 50, "DPM-solver++": 20, "LCM": 4}
"""Of the rows that print no number of steps: those of DDIM and DPM-solver++ follow from the printed times."""
_PUBLISHED_STEPS = (7000, 3000)
"""Training steps, in thousands, of the DiT-XL/2 whose weights its authors published, at 256 and at 512 pixels."""
_SETS = {"Food": "food101", "Artbench": "artbench10", "Cars": "cars", "Birds": "birds"}
"""As the paper's Tables 2 and 3 print them -> names of the suite."""
_CHANGES = {
    "I: TDW": "tdw-only",
    "II: SDT": "sdt-only",
    "I with random": "random --rates 0.5 0.5 1.0",
    "III with layer": "layer-skip",
    "III layer": "layer-skip",
    **{name: f"prune:{name}:0.5" for name in ("random", "magnitude", "taylor", "diff")},
}
"""Beginning of a row of these tables -> what `finetune --ablation` takes; a random router keeps half of the widths."""
_TOME = "tome:0.2"
_OTHERS = re.compile(r"U-ViT|DyUViT|PixArt|DyPixArt|DiM|DiffiT")
"""Architectures of other projects."""


@dataclass(frozen=True)
class Route:
    """How a published number would be measured: the command and what it needs; without a command, why there is none."""

    command: str
    needs: tuple[str, ...] = ()
    why_none: str = ""

    @property
    def words(self) -> str:
        """The command and what it needs, or why there is none."""
        if not self.command:
            return f"no command measures it yet: {self.why_none}"
        reason = f"needs {', '.join(self.needs)}" if self.needs else "not asked for in this run"
        return f"{reason}: `{self.command}`"

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
    route = route_of(value)
    if value.value is None:
        return SummaryRow.not_transcribed(value, tier, route.words, route.command)
    return waiting_row(value, route, tier)


def waiting_row(claim: PublishedValue | Claim, route: Route, tier: str) -> SummaryRow:
    """The `not run` row of a claim that waits for what its route needs."""
    return SummaryRow.not_run(claim, tier, route.words, command=route.command, needs="; ".join(route.needs))


def route_of(value: PublishedValue) -> Route:
    """The command that would measure a published number, and what that needs."""
    kind, about = quantity_kind(value.metric), claim_subject(value)
    composed = _COMPOSED_ROW.fullmatch(value.row)
    if _OTHERS.match(value.row):
        return Route.none(f"{value.row} is of another architecture, which is not built here")
    if composed and value.table.startswith(_COMPOSED) and kind in (QUALITY, SPEED):
        return _composed(value, composed, kind)
    if value.table == "Table 2 (fine-grained)" and kind in (FLOPS, SPEED):
        return _work_of_fine_tuned(value, kind)
    if kind == QUALITY:
        return _quality(value, about)
    if kind == SPEED and about is not None:
        lambdas = f" --lambdas {about.target}" if about.target is not None else ""
        command = f"python -m bench latency --models {_static(about)}{lambdas} --device cuda --run-steps 250"
        return Route(command, (V100,))
    if kind in (FLOPS, PARAMETERS) and about is not None:
        return _work(about)
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
        score = Route(_SCORE.format("SAMPLES", f"imagenet-{pixels}"), needs)
        return score if value.table in _COMPARED else Route.none(f"{value.row} is not built here")
    scale = re.search(r"cfg=([\d.]+)", value.row)
    guidance = f" --scale {float(scale[1]) if scale else 1.0 if 'no guidance' in value.row else 1.5}"
    decoder = " --vae sd-vae-ft-mse" if "ft-MSE" in value.row else " --vae DIR" if "original" in value.row else ""
    size = f"--checkpoint DiT-XL-2-{pixels}x{pixels}.pt --model DiT-XL/2 --resolution {pixels}"
    return _generated(f"{size}{guidance}{decoder}", f"imagenet-{pixels}", (WEIGHTS, STATISTICS, GPU))


def _quality_of_size(about: Subject) -> Route:
    """A row of Table 8 whose weights the authors kept, or a size that only another table has."""
    if "-L/" in about.model:
        return Route.none(f"nobody published weights of a {about.model} that was trained to the end")
    if about.target is None:
        return _generated(f"--checkpoint FILE --model {about.model}", "imagenet-256", (WEIGHTS, STATISTICS, GPU))
    route = _generated("--checkpoint DIR/model.safetensors", "imagenet-256", (TRAINED, STATISTICS, GPU))
    return Route(f"{_finetune(about)} && {route.command}", route.needs)


def _composed(value: PublishedValue, row: re.Match[str], kind: str) -> Route:
    """DiT-XL or DyDiT-XL under another sampler or a cache, or at 512 pixels; lambda is 0.5 where none is printed."""
    target = (row["target"] or "0.5") if row["kind"] else None
    pixels, other = int(row["pixels"] or 256), row["other"]
    steps = int(row["steps"] or _STEPS.get(other or "", 100 if pixels == 512 else 250))
    sampler = other.lower() if other in _STEPS else "ddpm"
    method = f"deepcache:{row['interval'] or 2}" if other == "DeepCache" else ""
    size = " --resolution 512" if pixels == 512 else ""
    if kind == SPEED:
        entry = ",".join(filter(None, [f"dydit:{target}" if target else "static", method]))
        entry += f"@{sampler}:{steps}" if sampler != "ddpm" else ""
        run = f"--methods {entry} --steps {steps if sampler == 'ddpm' else 250}"
        return Route(f"python -m bench compare-methods --network DiT-XL/2{size} {run} --device cuda", (V100,))
    before, needs = "", WEIGHTS
    if sampler == "lcm":
        weights, needs = f"FILE --model {row['kind'] or ''}DiT-XL/2", DISTILLED
    elif target is None:
        weights = f"DiT-XL-2-{pixels}x{pixels}.pt --model DiT-XL/2{size}"
    elif pixels == 256:
        weights = f"dydit-xl-2-lambda-{target} --model DyDiT-XL/2"
    else:
        encode = f"python -m bench latents --data imagenet{size} --device cuda --out LATENTS"
        train = f"--recipe dydit-xl-{target}{size} --from DiT-XL-2-512x512.pt --data LATENTS --device cuda --out DIR"
        before, weights, needs = f"{encode} && python -m bench finetune {train} && ", "DIR/model.safetensors", TRAINED
    options = f"--checkpoint {weights} --sampler {sampler} --steps {steps}" + (f" --method {method}" if method else "")
    route = _generated(options, f"imagenet-{pixels}", (needs, STATISTICS, GPU))
    return Route(before + route.command, route.needs)


def _quality_of_fine_tuned(value: PublishedValue) -> Route:
    """Size S on each data set that the number is of, or a mean over them."""
    if value.confidence == "derived":
        return Route.none("it repeats another row")
    parts: list[str] = []
    needs: tuple[str, ...] = (WEIGHTS, GPU)
    if "ImageNet" in value.dataset:
        parts.append(_fine_tuned(value, "imagenet", 0, ""))
        needs = (WEIGHTS, STATISTICS, GPU)
    sets = {name: DATASETS[name].classes for printed, name in _SETS.items() if printed in value.dataset}
    if sets:
        needs = (DATA_SETS, ITERATIONS, *needs)
    if len(sets) == 1:
        parts += [_fine_tuned(value, name, classes, "") for name, classes in sets.items()]
    elif sets:
        each = _fine_tuned(value, "${SET%:*}", "${SET#*:}", "${SET%:*}/")
        parts.append(f"for SET in {' '.join(f'{name}:{count}' for name, count in sets.items())}; do {each}; done")
    return Route(" && ".join(parts), needs)


def _fine_tuned(value: PublishedValue, name: str, classes: int | str, folder: str) -> str:
    """The lines for one data set: the static model is trained on it first, then what is made of that.

    Args:
        value: the number.
        name: of the data set.
        classes: it has, 0 where they are those of the weights at hand, which are not trained on it first then.
        folder: beginning of every directory, with its slash.
    """
    common = f"--data {folder}LATENTS --device cuda --out {folder}"
    train, steps, parent = "python -m bench finetune --recipe dydit-s-0.5", "", "FILE"
    parts = [f"python -m bench latents --data {name} --device cuda --out {folder}LATENTS"]
    if classes:
        steps, anew = " --steps N", f" --new-classes {classes}"
        if "direct" in value.row or "dagger" in value.row:
            steps += anew
        else:
            parts.append(f"{train} --ablation static{steps}{anew} --from FILE {common}STATIC")
            parent = f"{folder}STATIC/model.safetensors"
    model, method = f"{folder}DIR/model.safetensors", ""
    if value.row.startswith(("DiT-S", "ToMe")):
        model, method = parent, f" --method {_TOME}" if value.row.startswith("ToMe") else ""
    else:
        parts.append(f"{train}{_change(value)}{steps} --from {parent} {common}DIR")
    draw = f"--checkpoint {model}{method}"
    parts.append(_generated(draw, name if classes else "imagenet-256", (), f"{folder}SAMPLES").command)
    return " && ".join(parts)


def _change(value: PublishedValue) -> str:
    """The option that makes the network of a row of Tables 2 and 3 out of the static one; none makes a DyDiT."""
    row = value.row.removeprefix("pruned w/ ")
    return next((f" --ablation {change}" for start, change in _CHANGES.items() if row.startswith(start)), "")


def _work_of_fine_tuned(value: PublishedValue, kind: str) -> Route:
    """FLOPs and time of size S in Table 2: those of the shape, and of a DyDiT by masks that are drawn."""
    device, needs = (" --device cuda", (V100,)) if kind == SPEED else ("", ())
    change = _change(value).removeprefix(" --ablation ")
    method = change or (
        _TOME if value.row.startswith("ToMe") else "dydit:0.5" if value.row.startswith("Dy") else "static"
    )
    if kind == FLOPS and method == "dydit:0.5":
        return Route.none("they follow from masks that were learned on four data sets; see the rows of their FID")
    return Route(f"python -m bench compare-methods --network DiT-S/2 --methods {method} --steps 250{device}", needs)


def _generated(options: str, reference: str, needs: tuple[str, ...], samples: str = "SAMPLES") -> Route:
    command = f"python -m bench generate {options} --images 50000 --device cuda --tf32 --out {samples}"
    return Route(f"{command} && {_SCORE.format(samples, reference)}", needs)


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
