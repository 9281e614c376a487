"""What a fine-tuning is to be: options, the recipe and network they come to, and the training, ready to begin."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh

from bench.machine import ProcessGroup, check_arithmetic
from bench.records import file_sha256
from bench.training.data import TrainingData, open_data
from dydit import DiT, DiTConfig, InputError, checkpoint, is_router_key, model_config, order_by_importance
from dydit.ablations import RandomRouting, find_ablation
from dydit.training import PRECISIONS, Recipe, Training, find_recipe, is_modifier, modified

STATIC = "static"
"""The control: the static model, trained on by the same recipe without routers."""


@dataclass(frozen=True)
class FinetuneOptions:
    """What to train.

    Args:
        source: checkpoint of the static model: a file.
        data: see `bench.training.data.open_data`.
        out: directory of the run; what it holds of the same run is gone on with.
        recipe: a name of `dydit.training.published_recipes`, or None: then `changes` must give steps, batch_size and,
            but for the static control, target.
        changes: fields of `Recipe` that differ from the named one, or from its defaults.
        ablation: names of one network of `dydit.ablations` or `STATIC`, and of modifiers of a recipe.
        model: name of the network, for files that do not name their own; a named recipe says it, too.
        resolution: side of the images in pixels, for a named network.
        weights: which weights of a training checkpoint to take, `ema` or `model`.
        rates: of heads, channel groups and tokens, for the ablation `random`.
        data_root: local copies of data sets.
        precision: `fp32` or `bf16`.
        checkpointing: recompute activations (see `Training`).
        shard: share weights, gradients and optimiser out over the processes, of which there must be several.
        device: `cpu`, or `cuda`, where each process takes the GPU of its local rank.
        tf32: let float32 products on a GPU take TF32 inputs, as the papers' training does.
        threads: of the CPU, per process; sums depend on it.
        save_every: steps between two checkpoints.
        keep: how many checkpoints stay.
        tensorboard: write the logs for TensorBoard, too.

    Raises:
        InputError: a value out of range, or one that this machine does not have.
    """

    source: str
    data: str
    out: Path
    recipe: str | None = None
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    ablation: tuple[str, ...] = ()
    model: str | None = None
    resolution: int | None = None
    weights: str = "ema"
    rates: tuple[float, float, float] | None = None
    data_root: Path | None = None
    precision: str = "fp32"
    checkpointing: bool = False
    shard: bool = False
    device: str = "cpu"
    tf32: bool = False
    threads: int = 1
    save_every: int = 1000
    keep: int = 2
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name in ("threads", "save_every", "keep"):
            if getattr(self, name) < 1:
                raise InputError(f"{name.replace('_', '-')} = {getattr(self, name)}; it must be at least 1")
        if self.precision not in PRECISIONS:
            raise InputError(f"precision {self.precision!r}: choose one of {', '.join(PRECISIONS)}")
        check_arithmetic(self.device, torch.float32, self.tf32)
        if self.tensorboard and importlib.util.find_spec("tensorboard") is None:
            raise InputError("tensorboard: the package is missing; python -m pip install tensorboard")


@dataclass(frozen=True)
class TrainingPlan:
    """What the options come to: recipe, the name of the network's kind, whether it is ordered first, and its source."""

    recipe: Recipe
    kind: str
    ordered: bool
    network: str | None
    source: str


@dataclass(frozen=True)
class TrainingJob:
    """A training that may begin, its data, and what decides its result."""

    plan: TrainingPlan
    training: Training
    data: TrainingData
    identity: dict[str, Any]


def plan_training(options: FinetuneOptions) -> TrainingPlan:
    """Recipe, network and order that the options ask for.

    Raises:
        InputError: an unknown name, or values that do not make a recipe.
    """
    named = find_recipe(options.recipe) if options.recipe is not None else None
    changes = dict(options.changes)
    networks = [name for name in options.ablation if not is_modifier(name)]
    if len(networks) > 1:
        raise InputError(f"ablations {', '.join(networks)}: each is a network of its own; choose one")
    kind = networks[0] if networks else "both"
    if named is None:
        missing = [name for name in ("steps", "batch_size") if name not in changes]
        if missing or (kind != STATIC and "target" not in changes):
            raise InputError(
                "recipe: give --recipe NAME, or --steps, --batch and --lambda (no --lambda with --ablation static)"
            )
        recipe = Recipe(**{"seed": 0, **changes})
    else:
        recipe = dataclasses.replace(named.recipe, **changes)
    ordered = True
    for name in options.ablation:
        if is_modifier(name):
            recipe, orders = modified(recipe, name)
            ordered = ordered and orders
    if kind == STATIC:
        recipe = dataclasses.replace(recipe, target=None, complete_warmup=0)
    network = options.model or (named.network if named else None)
    source = named.source if named else "given by options"
    return TrainingPlan(
        recipe, kind, ordered, network, f"{source}; changed: {_told(changes)}" if named and changes else source
    )


def own_device(options: FinetuneOptions, world: ProcessGroup) -> torch.device:
    """The device of this process, which torch's own choices follow from now on.

    Raises:
        InputError: it has no GPU of its own, or there is nobody to share the model out to.
    """
    if options.shard and world.size == 1:
        raise InputError("shard: one process has nobody to share with; start several with torchrun --nproc-per-node N")
    if options.device != "cuda":
        return torch.device(options.device)
    if world.local_rank >= torch.cuda.device_count():
        raise InputError(f"process {world.local_rank} of this machine has no GPU of its own; start fewer processes")
    device = torch.device("cuda", world.local_rank)
    torch.cuda.set_device(device)
    return device


def prepare_training(
    options: FinetuneOptions, world: ProcessGroup, device: torch.device, mesh: DeviceMesh | None = None
) -> TrainingJob:
    """Read weights and data and build the training, on a device or shared out over a mesh of all processes' devices.

    Raises:
        InputError: anything of these that cannot be had, or that does not fit the others.
    """
    planned = plan_training(options)
    model = build(options, planned)
    training = Training(
        model if mesh else model.to(device),
        planned.recipe,
        precision=options.precision,
        recompute=options.checkpointing,
        rank=world.rank,
        processes=world.size,
        mesh=mesh,
    )
    data = open_data(options.data, model.config, options.data_root)
    identity = {
        "recipe": dataclasses.asdict(planned.recipe),
        "network": training.kind.__name__,
        "config": model.config.kwargs(),
        "ordered": planned.ordered,
        "rates": list(options.rates) if options.rates else None,
        "precision": options.precision,
        "data": data.name,
        "data_sha256": data.sha256,
        "parent_sha256": file_sha256(Path(options.source)),
    }
    return TrainingJob(planned, training, data, identity)


def build(options: FinetuneOptions, planned: TrainingPlan) -> DiT:
    """The network to train, filled from the static checkpoint, its heads and channels in order.

    Raises:
        InputError: a checkpoint that is not whole, not static or of another size, or a lambda out of reach.
    """
    source = options.source
    found = checkpoint.read(source, options.weights)
    if routers := [key for key in found.state if is_router_key(key)]:
        raise InputError(
            f"{source}: holds routers ({routers[0]}), it is fine-tuned already; give the static checkpoint"
        )
    config = _config(options, planned, found)
    if planned.kind == STATIC:
        kind: type[DiT] = DiT
    else:
        ablation = find_ablation(planned.kind)
        assert planned.recipe.target is not None
        ablation.check_target(config, planned.recipe.target)
        kind = ablation.kind
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(planned.recipe.seed)  # of the routers' weights
        model = kind(**config.kwargs())
    checkpoint.load_into(model, found, source)
    if isinstance(model, RandomRouting) != (options.rates is not None):
        raise InputError("rates: the ablation random needs --rates HEADS GROUPS TOKENS, and no other takes them")
    if isinstance(model, RandomRouting) and options.rates is not None:
        model.meet(options.rates, planned.recipe.seed)
    if planned.ordered:
        order_by_importance(model)
    return model


def _config(options: FinetuneOptions, planned: TrainingPlan, found: checkpoint.Checkpoint) -> DiTConfig:
    if planned.network is not None:
        return model_config(planned.network, options.resolution)
    try:
        return DiTConfig(**json.loads(found.record["config"]))
    except (KeyError, TypeError, json.JSONDecodeError):
        raise InputError(f"{options.source}: does not name its model; give --model, such as DyDiT-S/2") from None


def _told(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in changes.items())
