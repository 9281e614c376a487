"""What the latency harness times: models with random weights, synthetic routing, and the engines over them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from bench.claims import PublishedSpeed, published_speeds
from bench.latency import alternatives, synthetic_routing
from bench.latency.alternatives import in_inference_mode
from bench.machine import DTYPES, Budget, check_arithmetic
from bench.options import BATCH, LAMBDA, SEED, THREADS, DeviceOptions, DtypeOptions, Range, Tf32Options, option
from dydit import DiT, DiTConfig, DyDiT, InputError, Model, Routing, is_router_key, macs, model_config
from dydit.dit import sincos_table
from dydit.flops import MATMUL
from dydit.inference import Engine, GraphedForward, WidthPlan, arithmetic_of

STEPS = 250
TIMESTEP = 500
Network = TypeVar("Network", DiT, DyDiT)


@dataclass(frozen=True, kw_only=True)
class TimingOptions(DtypeOptions, Tf32Options, DeviceOptions):
    """What to time; but for the limits of numbers, nothing is checked."""

    models: Sequence[str] = option(("DiT-S/2", "DiT-B/2"), metavar="NAME", help="such as DiT-B/2")
    lambdas: Sequence[float] | None = option(None, metavar="L", help="the paper's by default", within=LAMBDA)
    batch: Sequence[int] = option(
        (1, 2, 4, 8), help="images; guidance doubles the rows that the network sees", within=BATCH
    )
    profiles: Sequence[str] = option(synthetic_routing.PROFILES, metavar="P", help="of the synthetic routing")
    seed: int = option(0, help="of weights, inputs and routing", within=SEED)
    threads: int | None = option(None, help="CPU threads", within=THREADS)
    run_steps: int = option(5, help=f"sampling steps measured for s/image; {STEPS} is all", within=Range(1, STEPS))
    graphs: bool = option(False, help="capture static and realised forwards as CUDA graphs")
    alternatives: Sequence[str] = option(
        (), metavar="NAME", help=f"the static model by {', '.join(alternatives.ALTERNATIVES)}, or all of them, too"
    )


@dataclass(frozen=True, kw_only=True)
class LatencyOptions(TimingOptions):
    """What to time at one resolution, and for how long.

    Raises:
        InputError: anything that the machine or the paper's tables do not have, before any long work.
    """

    resolution: int = 256
    budget: Budget = field(default_factory=Budget)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.models:
            model_config(name, self.resolution)
        for profile in self.profiles:
            if profile not in synthetic_routing.PROFILES:
                raise InputError(f"routing profile {profile!r}: choose one of {', '.join(synthetic_routing.PROFILES)}")
        if self.dtype not in DTYPES:
            raise InputError(f"dtype {self.dtype!r}: choose one of {', '.join(DTYPES)}")
        check_arithmetic(self.device, DTYPES[self.dtype], self.tf32)
        alternatives.check_names(self.alternatives)
        if self.graphs and torch.device(self.device).type != "cuda":
            raise InputError("graphs: CUDA graphs need --device cuda; leave --graphs out")


@dataclass(frozen=True)
class Case:
    """One engine to time: its call on a guided batch, and what it is."""

    engine: str
    row: PublishedSpeed | None
    profile: str
    model: Model
    executed_ratio: float

    @property
    def static(self) -> bool:
        """Whether the static model is computed, by whatever engine."""
        return self.row is None

    @property
    def own(self) -> Engine | None:
        """This project's engine, where it is one that computes the forward."""
        inner = self.model.engine if isinstance(self.model, GraphedForward) else self.model
        return inner if isinstance(inner, Engine) else None

    def ran_in(self, options: LatencyOptions) -> dict[str, str]:
        """By what, and in which arithmetic, the parts of the forward compute; see `Engine.ran_in`."""
        if self.own is not None:
            return self.own.ran_in()
        library = self.engine if self.engine in alternatives.ALTERNATIVES else "torch"
        return {"products": f"{library}, {arithmetic_of(DTYPES[options.dtype], torch.device(options.device))}"}


def _to(routing: Routing, device: torch.device) -> Routing:
    return Routing(routing.heads.to(device), routing.channels.to(device), routing.tokens.to(device))


def random_network(
    kind: type[Network], config: DiTConfig, device: torch.device, dtype: torch.dtype, seed: int
) -> Network:
    """A network with random weights (gates not zero), in evaluation mode and without gradients."""
    with torch.device("meta"):
        network = kind(**config.kwargs())
    network = network.to_empty(device=device).to(dtype).eval().requires_grad_(False)
    generator = torch.Generator(device).manual_seed(seed)
    for parameter in network.parameters():
        parameter.normal_(std=0.02, generator=generator)
    network.pos_embed.copy_(sincos_table(config.hidden_size, config.grid_size))
    return network


def build_pair(name: str, options: LatencyOptions) -> tuple[DiT, DyDiT]:
    """A DyDiT with random weights and the static DiT that shares every weight but the routers."""
    config = model_config(name, options.resolution)
    dynamic = random_network(DyDiT, config, torch.device(options.device), DTYPES[options.dtype], options.seed)
    return static_twin(dynamic), dynamic


def static_twin(dynamic: DyDiT) -> DiT:
    """The static DiT that shares every weight of a DyDiT but the routers."""
    with torch.device("meta"):
        static = DiT(**dynamic.config.kwargs())
    shared = {key: value for key, value in dynamic.state_dict().items() if not is_router_key(key)}
    static.load_state_dict(shared, assign=True)
    return static.eval().requires_grad_(False)


def synthetic_masks(
    name: str, config: DiTConfig, target: float, profile: str, rows: int, seed: int
) -> tuple[PublishedSpeed, Routing]:
    """Masks of `rows` rows that leave what Table 8 prints at a lambda, or lambda itself, and its printed row."""
    (row,) = published_speeds(name, config, [target])
    return row, synthetic_routing.draw_routing(config, row.block_ratio, profile, rows, seed)


def timed_cases(name: str, static: DiT, dynamic: DyDiT, rows: int, options: LatencyOptions) -> dict[str, Case]:
    """Static and plain once; masked once per lambda (all masks cost the same); realised per lambda and profile."""
    config = static.config
    whole = macs(config).total(MATMUL)
    found = {
        "static": Case("static", None, "", _engine(options, static), 1.0),
        "plain": Case("plain", None, "", in_inference_mode(static), 1.0),
    }
    for row in published_speeds(name, config, options.lambdas):
        for number, profile in enumerate(options.profiles):
            drawn = synthetic_routing.draw_routing(config, row.block_ratio, profile, rows, options.seed)
            routing = _to(drawn, torch.device(options.device))
            if number == 0:
                everything = macs(config, dynamic=True).total(MATMUL) / whole
                masked = in_inference_mode(functools.partial(_masked, dynamic, routing))
                found[f"masked {row.target}"] = Case("masked", row, profile, masked, everything)
            plan = WidthPlan.constant(drawn, range(1000))
            engine = _engine(options, dynamic, plan, routing.tokens.bool())
            ratio = macs(config, routing).total(MATMUL) / whole
            found[f"realised {row.target} {profile}"] = Case("realised", row, profile, engine, ratio)
    return found


def _masked(model: DyDiT, routing: Routing, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    return model.route(x, t, y, routing)[0]


def alternative_cases(
    engines: Mapping[str, Case], static: DiT, given: alternatives.Inputs, options: LatencyOptions
) -> tuple[dict[str, Case], dict[str, str]]:
    """The static model by the other libraries that the options name; and why some of them are not run."""
    names = alternatives.check_names(options.alternatives)
    expected = engines["static"].model(*given)
    built, refused = alternatives.build_alternatives(names, static, given, expected)
    return {name: Case(name, None, "", model, 1.0) for name, model in built.items()}, refused


def tune(engines: Mapping[str, Case], rows: int) -> None:
    """Let all engines choose their fastest kernels for a batch of `rows`; before anything is timed or captured."""
    for case in engines.values():
        if case.own is not None:
            case.own.tune(rows)


def release(engines: Mapping[str, Case]) -> None:
    """Let all engines give back what they keep for the intermediates of a forward; before memory is measured."""
    for case in engines.values():
        if case.own is not None:
            case.own.backend.scratch.release()


def _engine(options: LatencyOptions, model: DiT, plan: WidthPlan | None = None, tokens: Tensor | None = None) -> Model:
    """The engine, static and dynamic with the same graph setting."""
    engine = Engine(model, plan, tokens)
    return GraphedForward(engine) if options.graphs else engine


def random_inputs(model: DiT, batch: int, options: LatencyOptions) -> tuple[Tensor, Tensor, Tensor]:
    """Random latents of 2 x batch rows, one timestep, labels then null labels, as a guided sampling step sees them."""
    config, rows = model.config, 2 * batch
    generator = torch.Generator().manual_seed(options.seed)
    device = torch.device(options.device)
    x = torch.randn(rows, config.in_channels, config.input_size, config.input_size, generator=generator)
    labels = torch.randint(config.num_classes, (rows // 2,), generator=generator)
    y = torch.cat([labels, torch.full_like(labels, config.num_classes)])
    return x.to(device, DTYPES[options.dtype]), torch.full((rows,), TIMESTEP, device=device), y.to(device)
