"""What the latency harness times: models with random weights, synthetic routing, and the engines over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bench import device_memory, paper, synthetic
from bench.flops_count import GIGA, implied_ratio
from bench.timing import Budget
from dydit.config import PAPER_LAMBDAS, DiTConfig, check_lambda, model_config
from dydit.dit import DiT, sincos_table
from dydit.dydit import DyDiT
from dydit.engine import Engine
from dydit.errors import InputError
from dydit.flops import DYDIT_PAPER, MATMUL, macs
from dydit.graphs import GraphedForward
from dydit.routing import Routing
from dydit.slices import WidthPlan

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
    diffusers: bool = False
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
                model=static_name(name),
                target=target,
                block_ratio=min(ratio, 1.0),
                source="DyDiT, Table 8" if fits else "target",
                speedup=printed.get("acceleration") if fits else None,
                s_per_image=printed.get("s/image") if fits else None,
            )
        )
    return rows


def static_name(name: str) -> str:
    """`DiT-S/2` of `DyDiT-S/2` or itself: either names the pair."""
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
    for parameter in dynamic.parameters():
        parameter.normal_(std=0.02, generator=generator)
    dynamic.pos_embed.copy_(sincos_table(config.hidden_size, config.grid_size))
    shared = {key: value for key, value in dynamic.state_dict().items() if key in static.state_dict()}
    static.load_state_dict(shared, assign=True)
    return static.eval().requires_grad_(False), dynamic


def cases(name: str, static: DiT, dynamic: DyDiT, rows: int, options: Options) -> dict[str, Case]:
    """Static once; masked once a lambda (its cost is the same for all masks); realised once a lambda and profile."""
    config = static.config
    whole = macs(config).total(MATMUL)
    found = {"static": Case("static", None, "", _engine(options, static), 1.0)}
    if options.diffusers:
        found["diffusers"] = Case("diffusers", None, "", _diffusers(static), 1.0)
    for row in published_rows(name, config, options.lambdas):
        for number, profile in enumerate(options.profiles):
            drawn = synthetic.draw(config, row.block_ratio, profile, rows, options.seed)
            routing = _to(drawn, torch.device(options.device))
            if number == 0:
                everything = macs(config, dynamic=True).total(MATMUL) / whole
                found[f"masked {row.target}"] = Case("masked", row, profile, _masked(dynamic, routing), everything)
            plan = WidthPlan.constant(drawn, range(1000))
            engine = _engine(options, dynamic, plan, routing.tokens.bool())
            ratio = macs(config, routing).total(MATMUL) / whole
            found[f"realised {row.target} {profile}"] = Case("realised", row, profile, engine, ratio)
    return found


def tune(engines: Mapping[str, Case], given: tuple[Tensor, Tensor, Tensor]) -> None:
    """Let all engines choose their fastest kernels for these inputs; before anything is timed or captured."""
    for engine in _own(engines):
        engine.tune(*given)


def release(engines: Mapping[str, Case]) -> None:
    """Let all engines give back what they keep for the intermediates of a forward; before memory is measured."""
    for engine in _own(engines):
        engine.kernels.scratch.release()


def _own(engines: Mapping[str, Case]) -> Iterator[Engine]:
    """This project's engines among the cases."""
    for case in engines.values():
        engine = case.model.engine if isinstance(case.model, GraphedForward) else case.model
        if isinstance(engine, Engine):
            yield engine


def _engine(options: Options, model: DiT, plan: WidthPlan | None = None, tokens: Tensor | None = None) -> Forward:
    """The engine, static and dynamic with the same graph setting."""
    engine = Engine(model, plan, tokens)
    return GraphedForward(engine) if options.graphs else engine


def _diffusers(static: DiT) -> Forward:
    """The static model as diffusers runs it, with the same weights."""
    from bench.diffusers_twin import to_diffusers

    # nn.Module's own `to`: diffusers' prints a warning at every change of dtype.
    twin = torch.nn.Module.to(to_diffusers(static), static.pos_embed.device, static.pos_embed.dtype)

    @torch.inference_mode()
    def forward(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        output: Tensor = twin(x, timestep=t, class_labels=y).sample
        return output

    return forward


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
