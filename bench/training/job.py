"""A fine-tuning before its first step: options, the plan (recipe and network) that they make, and the job of both."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh

from bench.machine import ProcessGroup, check_arithmetic
from bench.options import (
    BATCH,
    LAMBDA,
    SEED,
    SHARE,
    STEPS,
    DataOptions,
    Options,
    OutputOptions,
    ProcessOptions,
    Range,
    Tf32Options,
    WeightsOptions,
    option,
)
from bench.records import file_sha256
from bench.training.data import TrainingData, open_data
from bench.training.label_table import describe_table, label_remarks, with_new_labels
from dydit import DiT, InputError, checkpoint, is_router_key, order_by_importance
from dydit.ablations import RandomRouting, find_ablation
from dydit.baselines import Calibration, change_network, is_change, parse_method
from dydit.training import PRECISIONS, NamedRecipe, Recipe, Training, apply_modifier, find_recipe, is_modifier

STATIC = "static"
"""The control: the static model, trained further by the same recipe, without routers."""
CLASSES = Range(1, 100_000)
"""Of a label table made anew. ImageNet-21k has 21,841; a mistyped number would ask for more memory than there is."""
CALIBRATION = 64
"""Images, the first of the data, on which a pruning by gradients takes them."""
DEFAULT_SEED = 0
"""Of a recipe that has no name and is given none."""
WAITING = Range(0, STEPS.most)
RATE = Range(0, 1000)


@dataclass(frozen=True, kw_only=True)
class RecipeOptions(Options):
    """Fields of `Recipe` that differ from a named recipe, or from the defaults of `Recipe`; None: as there."""

    steps: int | None = option(None, metavar="N", help="optimiser steps", within=STEPS)
    batch_size: int | None = option(
        None, name="batch", metavar="N", help="images per step, over all processes", within=BATCH
    )
    micro_batch: int | None = option(
        None,
        metavar="N",
        help="images computed at once, of which the FLOPs loss takes the mean ratio (default: the batch)",
        within=BATCH,
    )
    target: float | None = option(None, name="lambda", metavar="X", help="target FLOPs ratio", within=LAMBDA)
    seed: int | None = option(
        None, metavar="N", help=f"of rows, timesteps, noise and gates (default {DEFAULT_SEED})", within=SEED
    )
    learning_rate: float | None = option(
        None, metavar="X", help=f"of AdamW (default {Recipe.learning_rate})", within=RATE
    )
    router_learning_rate: float | None = option(
        None, metavar="X", help="factor on the learning rate of the routers (default 1)", within=Range(0, 1_000_000)
    )
    ema_decay: float | None = option(
        None, metavar="X", help=f"of the moving average (default {Recipe.ema_decay})", within=SHARE
    )
    complete_warmup: int | None = option(
        None,
        name="warmup",
        metavar="N",
        help=f"steps with the loss of the complete model (default {Recipe.complete_warmup})",
        within=WAITING,
    )
    target_hold: int | None = option(
        None, metavar="N", help=f"steps before the FLOPs target falls (default {Recipe.target_hold})", within=WAITING
    )
    target_reached: int | None = option(
        None, metavar="N", help=f"step at which it is lambda (default {Recipe.target_reached})", within=STEPS
    )
    gradient_limit: float | None = option(
        None, metavar="X", help="norm above which a step is skipped (default: none)", within=Range(0, 1e30)
    )
    flip: bool | None = option(None, help="mirror half of the images")

    @property
    def changes(self) -> dict[str, Any]:
        """What was given, by the name of the field of `Recipe`."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(RecipeOptions)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(RecipeOptions, WeightsOptions, ProcessOptions, Tf32Options, DataOptions, OutputOptions):
    """What to train; `out` is the directory of the run, and what it holds of the same run is gone on with.

    Without a named recipe, steps, batch_size and, but for the static control, target must be given.

    Raises:
        InputError: a value out of range, or one that this machine does not have.
    """

    out: Path = Path("results/local/finetune")
    source: str = option(
        name="from", metavar="FILE", help="checkpoint of the static DiT, or of the same DyDiT to train further"
    )
    data: str = option(metavar="NAME|PATH", help="digits, another data set, images, or cached latents")
    recipe: str | None = option(
        None, metavar="NAME", help="such as dydit-xl-0.5 or released-xl-0.7; the options of a recipe change it"
    )
    ablation: Sequence[str] = option(
        (),
        repeated=True,
        metavar="NAME",
        help="a network (tdw-only, sdt-only, random, layer-skip, ...; static for the control; prune:CRITERION:RATIO or "
        "remove:LAYERS for a smaller static one) or no-warmup, no-ordering, flops-weight-X; may be repeated",
    )
    new_classes: int | None = option(
        None,
        metavar="N",
        help="make the label table anew for N classes, the null label's row kept (default: the checkpoint's table)",
        within=CLASSES,
    )
    rates: tuple[float, float, float] | None = option(
        None, metavar=("HEADS", "GROUPS", "TOKENS"), help="open shares, for --ablation random", within=SHARE
    )
    precision: str = option("fp32", help="fp32, or bf16 for matrix products in bfloat16")
    checkpointing: bool = option(False, help="recompute activations: less memory, more time")
    shard: bool = option(False, help="under torchrun: each process holds its part of the model alone (FSDP)")
    save_every: int = option(1000, metavar="N", help="steps between two checkpoints", within=STEPS)
    tensorboard: bool = option(False, help="write the logs to OUT/tensorboard, too")
    keep: int = option(2, metavar="N", help="checkpoints that stay", within=STEPS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.precision not in PRECISIONS:
            raise InputError(f"precision {self.precision!r}: choose one of {', '.join(PRECISIONS)}")
        check_arithmetic(self.device, torch.float32, self.tf32)
        if self.tensorboard and importlib.util.find_spec("tensorboard") is None:
            raise InputError("tensorboard: the package is missing; python -m pip install tensorboard")


@dataclass(frozen=True)
class TrainingPlan:
    """What the options ask for: the recipe and where it comes from, and the network by its name.

    Args:
        recipe: with all changes.
        kind: name of the network in `dydit.ablations`, `STATIC`, or a method of `dydit.baselines` that makes a smaller
            static network.
        ordered: whether heads and channel groups are ordered by importance before the training.
        network: its name in `dydit.config`; None where only its checkpoint names it.
        source: where the recipe is from, in words.
        warning: how the run differs from its named recipe in a way that is easily overlooked; None if it does not.
    """

    recipe: Recipe
    kind: str
    ordered: bool
    network: str | None
    source: str
    warning: str | None = None

    @property
    def static(self) -> bool:
        """Whether the network has no routers."""
        return self.kind == STATIC or is_change(self.kind)


@dataclass(frozen=True)
class TrainingJob:
    """Checked options and what they come to: a training that may begin, its data, and what decides its result.

    `label_table` says how that of a new number of classes was made (None: it is the checkpoint's), and `remarks` are
    lines on what the labels mean.
    """

    options: FinetuneOptions
    plan: TrainingPlan
    training: Training
    data: TrainingData
    identity: dict[str, Any]
    label_table: str | None = None
    remarks: tuple[str, ...] = ()


def plan_training(options: FinetuneOptions) -> TrainingPlan:
    """Recipe, network and order that the options ask for.

    Raises:
        InputError: an unknown name, or values that do not make a recipe.
    """
    named = find_recipe(options.recipe) if options.recipe is not None else None
    changes = options.changes
    networks = [name for name in options.ablation if not is_modifier(name)]
    if len(networks) > 1:
        raise InputError(f"ablations {', '.join(networks)}: each is a network of its own; choose one")
    kind = networks[0] if networks else "both"
    if is_change(kind):
        parse_method(kind)
    static = kind == STATIC or is_change(kind)
    if named is None:
        missing = [name for name in ("steps", "batch_size") if name not in changes]
        if missing or (not static and "target" not in changes):
            raise InputError(
                "recipe: give --recipe NAME, or --steps, --batch and --lambda (no --lambda with --ablation static)"
            )
        recipe = Recipe(**{"seed": DEFAULT_SEED, **changes})
    else:
        recipe = dataclasses.replace(named.recipe, **changes)
    ordered = named.ordered if named else True
    for name in options.ablation:
        if is_modifier(name):
            recipe, orders = apply_modifier(recipe, name)
            if not (ordered or orders):
                raise InputError(f"ablation {name}: heads and channel groups are not ordered anyway; leave it out")
            ordered = ordered and orders
    if static:
        recipe = dataclasses.replace(recipe, target=None, complete_warmup=0)
    network = options.model or (named.network if named else None)
    source = named.source if named else "given by options"
    if named and changes:
        source = f"{source}; changed: {_told(changes)}"
    return TrainingPlan(recipe, kind, ordered, network, source, _group_warning(named, recipe) if named else None)


def _group_warning(named: NamedRecipe, recipe: Recipe) -> str | None:
    """What to say where the FLOPs loss takes its mean over groups of another size than in the named recipe."""
    size, published = recipe.micro_batch_size, named.recipe.micro_batch_size
    if size == published or recipe.target is None:
        return None
    return (
        f"warning: the FLOPs loss takes the mean ratio of {size} images, in the recipe {named.name} of {published}; "
        "the fewer they are, the more it penalises differences between timesteps and images (--micro-batch)"
    )


def prepare_training(
    options: FinetuneOptions, world: ProcessGroup, device: torch.device, mesh: DeviceMesh | None = None
) -> TrainingJob:
    """Read weights and data and build the training, on a device or sharded over a mesh of all processes' devices.

    Raises:
        InputError: anything of these that cannot be had, or that does not fit the others.
    """
    planned = plan_training(options)
    found, network = _read_parent(options, planned)
    model = _filled_network(options, planned, found, network)
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
        **({} if options.new_classes is None else {"new_classes": options.new_classes}),
        **({"change": planned.kind} if is_change(planned.kind) else {}),
    }
    if options.new_classes is None:
        remarks = label_remarks(found, model.config, data.classes, options.source)
        return TrainingJob(options, planned, training, data, identity, remarks=tuple(remarks))
    table = describe_table(network.config, model.config)
    return TrainingJob(options, planned, training, data, identity, table, (f"label table: {table}",))


def build_network(options: FinetuneOptions, planned: TrainingPlan) -> DiT:
    """The network to train, filled from a static checkpoint, its heads and channel groups in order.

    A checkpoint of the same network with routers is trained further, its heads and channel groups left in their places.

    Raises:
        InputError: a checkpoint that is not whole, of another network or size, or a lambda out of reach.
    """
    return _filled_network(options, planned, *_read_parent(options, planned))


def _read_parent(options: FinetuneOptions, planned: TrainingPlan) -> tuple[checkpoint.Checkpoint, checkpoint.Network]:
    """The checkpoint to start from, and which network it holds."""
    source = options.source
    found = checkpoint.read(source, options.weights)
    trained = any(is_router_key(key) for key in found.state)
    name = planned.network if trained or planned.network is None else planned.network.removeprefix("Dy")
    network = checkpoint.network_of(found, source, model=name, resolution=options.resolution)
    kind = _kind(planned)
    if trained and network.kind is not kind:
        raise InputError(
            f"{source}: holds the routers of a {network.kind.__name__}, and a {kind.__name__} is to be trained; give "
            "the static checkpoint, or go on with the same network"
        )
    if not planned.static:
        assert planned.recipe.target is not None
        find_ablation(planned.kind).check_target(network.config, planned.recipe.target)
    return found, network


def _kind(planned: TrainingPlan) -> type[DiT]:
    return DiT if planned.static else find_ablation(planned.kind).kind


def _filled_network(
    options: FinetuneOptions, planned: TrainingPlan, found: checkpoint.Checkpoint, network: checkpoint.Network
) -> DiT:
    """The network to train, with the weights of the checkpoint."""
    config = network.config
    if options.new_classes is not None:
        config = dataclasses.replace(config, num_classes=options.new_classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(planned.recipe.seed)  # decides the routers' weights
        model = _kind(planned)(**config.kwargs())
    if options.new_classes is not None:
        found = with_new_labels(found, network.config, model)
    checkpoint.load_into(model, found, options.source)
    if is_change(planned.kind):
        data = open_data(options.data, model.config, options.data_root).data
        count = min(CALIBRATION, len(data))
        x, y = data.batch(torch.arange(count), torch.zeros(count, dtype=torch.bool))
        return change_network(model, planned.kind, Calibration(x, y, planned.recipe.seed)).train()
    if isinstance(model, RandomRouting) != (options.rates is not None):
        raise InputError("rates: the ablation random needs --rates HEADS GROUPS TOKENS, and no other takes them")
    if isinstance(model, RandomRouting) and options.rates is not None:
        model.set_rates(options.rates, planned.recipe.seed)
    if planned.ordered and not any(
        is_router_key(key) for key in found.state
    ):  # trained routers know heads and channel groups by their places
        order_by_importance(model)
    return model


def _told(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in changes.items())
