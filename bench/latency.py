"""Latency harness: static, masked and realised inference side by side, in one process, in turns.

`static` is the DiT in the realised engine's own code; `masked` is DyDiT as the authors' release runs it (masks
multiply, nothing is skipped); `realised` skips. Without trained weights the routing is synthetic, drawn to meet the
FLOPs that the paper prints for the row, and the row says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from bench import breakdown, device_memory, environment, paper, results, synthetic
from bench.flops_count import GIGA, implied_ratio
from bench.progress import status
from bench.timing import Budget, Timed, in_turns, speedup
from dydit.config import PAPER_LAMBDAS, DiTConfig, check_lambda, model_config
from dydit.diffusion import Diffusion
from dydit.dit import DiT
from dydit.dydit import DyDiT
from dydit.engine import Engine, WidthPlan
from dydit.errors import InputError
from dydit.flops import DYDIT_PAPER, MATMUL, macs
from dydit.routing import Routing
from dydit.sampling import denoise

STEPS = 250
TIMESTEP = 500
Forward = Callable[[Tensor, Tensor, Tensor], Tensor]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Options:
    """What to time. `batch` counts images; with guidance the network sees twice as many rows.

    Raises:
        InputError: anything that the machine or the paper's tables do not have, before any long work.
    """

    models: Sequence[str]
    lambdas: Sequence[float] | None = None
    batch: Sequence[int] = (1, 2, 4, 8)
    device: str = "cpu"
    dtype: str = "fp32"
    profiles: Sequence[str] = synthetic.PROFILES
    resolution: int = 256
    seed: int = 0
    threads: int | None = None
    run_steps: int = 5
    graphs: bool = False
    budget: Budget = field(default_factory=Budget)

    def __post_init__(self) -> None:
        for name in self.models:
            model_config(name, self.resolution)
        for value in self.lambdas or ():
            check_lambda(value)
        for profile in self.profiles:
            if profile not in synthetic.PROFILES:
                raise InputError(f"routing profile {profile!r}: choose one of {', '.join(synthetic.PROFILES)}")
        if not self.batch or min(self.batch) < 1:
            raise InputError(f"batch {list(self.batch)}: give whole numbers from 1")
        if not 1 <= self.run_steps <= STEPS:
            raise InputError(f"run steps {self.run_steps}: give 1 to {STEPS}")
        if self.dtype not in DTYPES:
            raise InputError(f"dtype {self.dtype!r}: choose one of {', '.join(DTYPES)}")
        device_memory.check_device(self.device, DTYPES[self.dtype])
        if self.graphs and torch.device(self.device).type != "cuda":
            raise InputError("graphs: CUDA graphs need --device cuda; leave --graphs out")


@dataclass(frozen=True)
class Row:
    """One published row: model by its static name, lambda, FLOPs ratio of the blocks, printed speeds (None: none)."""

    model: str
    target: float
    block_ratio: float
    source: str
    speedup: float | None
    s_per_image: float | None


@dataclass(frozen=True)
class Case:
    """One engine to time: its call on a guided batch, and what it is."""

    engine: str
    row: Row | None
    profile: str
    model: Forward
    executed_ratio: float


def published_rows(name: str, config: DiTConfig, lambdas: Sequence[float] | None) -> list[Row]:
    """The rows of Table 8 for a model; a lambda that is not printed takes its target as the ratio of the blocks."""
    size = name.split("-")[1].split("/")[0]
    rows = []
    for target in lambdas or PAPER_LAMBDAS.get(size, (0.5,)):
        printed = {
            value.metric.split(" ")[0]: value.value
            for value in paper.load()
            if value.table == "Table 8" and value.row == f"DyDiT-{size} lambda={target}"
        }
        fits = name.endswith("/2") and config.input_size == 32 and printed.get("FLOPs") is not None
        ratio = implied_ratio(config, (printed["FLOPs"] or 0.0) * GIGA, DYDIT_PAPER) if fits else target
        rows.append(
            Row(
                model=_static_name(name),
                target=target,
                block_ratio=min(ratio, 1.0),
                source="DyDiT, Table 8" if fits else "target",
                speedup=printed.get("acceleration") if fits else None,
                s_per_image=printed.get("s/image") if fits else None,
            )
        )
    return rows


def run(options: Options, directory: Path) -> pd.DataFrame:
    """Time everything and write latency.csv, latency_best.csv, their markdown twins, and run.json with raw samples."""
    record = environment.record(
        seed=options.seed, options=dataclasses.asdict(options), routing="synthetic routing", steps=STEPS
    )
    rows: list[dict[str, Any]] = []
    raw: list[dict[str, Any]] = []
    with _threads(options.threads):
        for name in dict.fromkeys(_static_name(name) for name in options.models):
            for found, samples in _time_model(name, options):
                rows += found
                raw += samples
                _write(rows, raw, record, directory)
    return pd.DataFrame(rows)


def _write(rows: list[dict[str, Any]], raw: list[dict[str, Any]], record: dict[str, Any], directory: Path) -> None:
    """After every batch size: what is finished is never lost."""
    frame = pd.DataFrame(rows)
    results.write_table(frame, directory, "latency")
    results.write_table(best_batches(frame), directory, "latency_best")
    results.write_run(record | {"samples": raw}, directory)


def run_profile(options: Options, directory: Path) -> pd.DataFrame:
    """Break one forward of every engine into its parts, at the first batch size, and write latency_profile.csv."""
    record = environment.record(seed=options.seed, options=dataclasses.asdict(options), routing="synthetic routing")
    tables = []
    with _threads(options.threads):
        for name in dict.fromkeys(_static_name(name) for name in options.models):
            batch = options.batch[0]
            static, dynamic = build(name, options)
            engines = {
                key: case
                for key, case in cases(name, static, dynamic, 2 * batch, options).items()
                if "masked" not in key
            }
            given = inputs(static, batch, options)
            calls = {key: functools.partial(case.model, *given) for key, case in engines.items()}
            parts = breakdown.measure(calls, torch.device(options.device))
            labels = {
                key: {
                    "model": name,
                    "lambda": case.row.target if case.row else 1.0,
                    "batch": batch,
                    "engine": case.engine,
                    "profile": case.profile,
                }
                for key, case in engines.items()
            }
            ratios = {key: case.executed_ratio for key, case in engines.items()}
            tables.append(breakdown.table(parts, labels, ratios))
    frame = pd.concat(tables, ignore_index=True)
    results.write_table(frame, directory, "latency_profile")
    results.write_run(record, directory)
    return frame


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """CPU threads inside the context; None leaves them."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def best_batches(frame: pd.DataFrame) -> pd.DataFrame:
    """Each engine at the batch size where it makes most images a second (the paper's protocol), and the ratio."""
    keys = ["model", "resolution", "device", "dtype"]
    best = frame.loc[frame.groupby([*keys, "lambda", "profile", "engine"])["images_per_s"].idxmax()]
    static = best.loc[best["engine"] == "static", [*keys, "batch", "images_per_s"]]
    joined = best[best["engine"] != "static"].merge(static, on=keys, suffixes=("", "_static"))
    joined["speedup_at_best"] = joined["images_per_s"] / joined["images_per_s_static"]
    joined["efficiency_at_best"] = joined["speedup_at_best"] / joined["limit"]
    columns = [*keys, "lambda", "profile", "engine", "batch", "images_per_s", "batch_static", "images_per_s_static"]
    return joined[[*columns, "speedup_at_best", "efficiency_at_best", "published_speedup", "routing"]]


def _static_name(name: str) -> str:
    return name.removeprefix("Dy")


def _to(routing: Routing, device: torch.device) -> Routing:
    return Routing(routing.heads.to(device), routing.channels.to(device), routing.tokens.to(device))


def build(name: str, options: Options) -> tuple[DiT, DyDiT]:
    """A DyDiT with random weights (gates not zero) and the static DiT that shares every weight but the routers."""
    config = model_config(name, options.resolution)
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    with torch.device("meta"):
        dynamic, static = DyDiT(**config.kwargs()), DiT(**config.kwargs())
    dynamic = dynamic.to_empty(device=device).to(dtype).eval().requires_grad_(False)
    generator = torch.Generator(device).manual_seed(options.seed)
    for tensor in (*dynamic.parameters(), dynamic.pos_embed):
        tensor.normal_(std=0.02, generator=generator)
    shared = {key: value for key, value in dynamic.state_dict().items() if key in static.state_dict()}
    static.load_state_dict(shared, assign=True)
    return static.eval().requires_grad_(False), dynamic


def _time_model(name: str, options: Options) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    config = model_config(name, options.resolution)
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    device_memory.check_fits(name, config, max(options.batch), device, dtype)
    static, dynamic = build(name, options)
    for batch in options.batch:
        status(f"{name} at {options.resolution}, batch {batch}, {options.device} {options.dtype}")
        engines = cases(name, static, dynamic, 2 * batch, options)
        given = inputs(static, batch, options)
        calls = {key: functools.partial(case.model, *given) for key, case in engines.items()}
        label = f"{name} batch {batch}"
        times = in_turns(calls, options.budget, device, label)
        per_step = in_turns(
            {key: _sampling(case, given, options.run_steps) for key, case in engines.items()},
            Budget(seconds=0, least=1, most=1, warmup=0),
            device,
            f"{label}, {options.run_steps} sampling steps",
        )
        extra = {key: device_memory.measure(call, device) for key, call in calls.items()}
        rows = [
            _table_row(name, case, batch, times[key], times["static"], per_step[key], extra[key], options)
            for key, case in engines.items()
        ]
        samples = [
            {"model": name, "batch": batch, "case": key, "first_ms": timed.first_ms, "rounds_ms": timed.rounds_ms}
            for key, timed in times.items()
        ]
        yield rows, samples


def cases(name: str, static: DiT, dynamic: DyDiT, rows: int, options: Options) -> dict[str, Case]:
    """Static once; masked once a lambda (its cost is the same for all masks); realised once a lambda and profile."""
    config = static.config
    whole = macs(config).total(MATMUL)
    found = {"static": Case("static", None, "", _engine(options, static), 1.0)}
    for row in published_rows(name, config, options.lambdas):
        for number, profile in enumerate(options.profiles):
            drawn = synthetic.draw(config, row.block_ratio, profile, rows, options.seed)
            routing = _to(drawn, torch.device(options.device))
            if number == 0:
                everything = macs(config, dynamic=True).total(MATMUL) / whole
                found[f"masked {row.target}"] = Case("masked", row, profile, _masked(dynamic, routing), everything)
            plan = WidthPlan.constant(routing, range(1000))
            engine = _engine(options, dynamic, plan, routing.tokens.bool())
            ratio = macs(config, routing).total(MATMUL) / whole
            found[f"realised {row.target} {profile}"] = Case("realised", row, profile, engine, ratio)
    return found


def _engine(options: Options, model: DiT, plan: WidthPlan | None = None, tokens: Tensor | None = None) -> Forward:
    """The engine, static and dynamic with the same graph setting."""
    engine = Engine(model, plan, tokens)
    if not options.graphs:
        return engine
    from dydit.graphs import GraphedForward

    return GraphedForward(engine)


def _masked(model: DyDiT, routing: Routing) -> Forward:
    @torch.inference_mode()
    def forward(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return model.route(x, t, y, routing)[0]

    return forward


def inputs(model: DiT, batch: int, options: Options) -> tuple[Tensor, Tensor, Tensor]:
    """Random latents of 2 x batch rows, one timestep, labels then null labels, as a guided sampling step sees them."""
    config, rows = model.config, 2 * batch
    generator = torch.Generator().manual_seed(options.seed)
    device = torch.device(options.device)
    x = torch.randn(rows, config.in_channels, config.input_size, config.input_size, generator=generator)
    labels = torch.randint(config.num_classes, (rows // 2,), generator=generator)
    y = torch.cat([labels, torch.full_like(labels, config.num_classes)])
    return x.to(device, DTYPES[options.dtype]), torch.full((rows,), TIMESTEP, device=device), y.to(device)


def _sampling(case: Case, given: tuple[Tensor, Tensor, Tensor], steps: int) -> Callable[[], object]:
    """The last `steps` steps of a 250-step guided DDPM run, whole: network, guidance, noise and update."""
    x, _, y = given
    half = len(x) // 2
    whole = Diffusion.linear().respaced(STEPS)
    diffusion = Diffusion(whole.betas[:steps], whole.timestep_map[:steps])

    @torch.inference_mode()
    def run_() -> Tensor:
        return denoise(
            case.model,
            diffusion,
            x[:half],
            y[:half],
            noise=lambda _: torch.randn_like(x[:half]),
            scale=1.5,
            null_label=int(y[-1]),
        )

    return run_


def _table_row(
    name: str,
    case: Case,
    batch: int,
    timed: Timed,
    static: Timed,
    sampled: Timed,
    extra: device_memory.Footprint,
    options: Options,
) -> dict[str, Any]:
    ratio, low, high = speedup(static, timed) if case.row else (1.0, 1.0, 1.0)
    limit = 1.0 / case.executed_ratio
    q25, q75 = timed.quartiles
    seconds = sampled.rounds_ms[0] / 1e3 / options.run_steps * STEPS / batch
    row = case.row
    return {
        "model": name,
        "lambda": row.target if row else 1.0,
        "resolution": options.resolution,
        "batch": batch,
        "device": options.device,
        "dtype": options.dtype,
        "engine": case.engine,
        "profile": case.profile,
        "ms_median": timed.median,
        "ms_q25": q25,
        "ms_q75": q75,
        "images_per_s": batch / timed.median * 1e3,
        "speedup": ratio,
        "speedup_low": low,
        "speedup_high": high,
        "flops_ratio": case.executed_ratio,
        "limit": limit,
        "efficiency": ratio / limit,
        "published_speedup": row.speedup if row else None,
        "published_s_per_image": row.s_per_image if row else None,
        "s_per_image": seconds,
        "s_per_image_basis": "measured whole" if options.run_steps == STEPS else f"from {options.run_steps} steps",
        "first_ms": timed.first_ms,
        "rounds": len(timed.rounds_ms),
        "peak_mib": extra.peak_mib,
        "energy_j": extra.energy_j,
        "graphs": options.graphs and case.engine != "masked",
        "routing": f"synthetic routing, {row.source}, seed {options.seed}" if row else "none",
    }
