"""Fine-tuning by a recipe, in one process or many under torchrun: resumes to the bit, ends with exported files.

    log.csv                    a row a step: loss, FLOPs ratio and its target, gradient norm, whether it was skipped
    rates.csv                  every so often: open shares of heads, channel groups and tokens of each block
    checkpoints/00001000.pt    all that a training needs to go on, and what it is a training of
    model.safetensors          the moving average, with its record
    model.pt                   `ema` and `model` in the published layout
    README.md                  the model card

Every file appears whole or not at all, but for the logs, which are cut back to the step that a run resumes from.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench import environment, results, shards, training_files, training_log
from bench.arithmetic import arithmetic, check_arithmetic
from bench.features import file_sha256
from bench.progress import status, track
from bench.training_data import TrainingData, open_data
from bench.training_log import Logs
from bench.world import World
from dydit import ablations, checkpoint, model_card, recipes
from dydit.config import DiTConfig, model_config
from dydit.dit import DiT
from dydit.dydit import is_router_key
from dydit.errors import InputError
from dydit.files import atomic_path
from dydit.importance import order_by_importance
from dydit.training import PRECISIONS, Recipe, StepLog, Training
from dydit.variants import RandomRouting

STATIC = "static"
"""The control: the static model, trained on by the same recipe without routers."""


@dataclass(frozen=True)
class Options:
    """What to train.

    Args:
        source: checkpoint of the static model: a file.
        data: see `bench.training_data.open_data`.
        out: directory of the run; what it holds of the same run is gone on with.
        recipe: a name of `dydit.recipes`, or None: then `changes` must give steps, batch_size and, but for the static
            control, target.
        changes: fields of `Recipe` that differ from the named one, or from its defaults.
        ablation: names of one network of `dydit.ablations` or `STATIC`, and of modifiers of `dydit.recipes`.
        model: name of the network, for files that do not name their own; a named recipe says it, too.
        resolution: side of the images in pixels, for a named network.
        weights: which weights of a training checkpoint to take, `ema` or `model`.
        rates: of heads, channel groups and tokens, for the ablation `random`.
        data_root: local copies of data sets.
        precision: `fp32` or `bf16`.
        checkpointing: recompute activations (see `Training`).
        device: `cpu`, or `cuda`, where each process takes the GPU of its local rank.
        tf32: let float32 products on a GPU take TF32 inputs, as the papers' training does.
        threads: of the CPU, per process; sums depend on it.
        save_every: steps between two checkpoints.
        keep: how many checkpoints stay.

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
    device: str = "cpu"
    tf32: bool = False
    threads: int = 1
    save_every: int = 1000
    keep: int = 2

    def __post_init__(self) -> None:
        for name in ("threads", "save_every", "keep"):
            if getattr(self, name) < 1:
                raise InputError(f"{name.replace('_', '-')} = {getattr(self, name)}; it must be at least 1")
        if self.precision not in PRECISIONS:
            raise InputError(f"precision {self.precision!r}: choose one of {', '.join(PRECISIONS)}")
        check_arithmetic(self.device, torch.float32, self.tf32)


@dataclass(frozen=True)
class Plan:
    """What the options come to: recipe, the name of the network's kind, whether it is ordered first, and its source."""

    recipe: Recipe
    kind: str
    ordered: bool
    network: str | None
    source: str


@dataclass(frozen=True)
class Job:
    """A training that may begin, its data, and what decides its result."""

    plan: Plan
    training: Training
    data: TrainingData
    identity: dict[str, Any]


def run(options: Options) -> Path | None:
    """Train to the end of the recipe, together with the other processes that torchrun started, and export.

    Returns:
        The path of `model.safetensors` in the first process, None in the others.

    Raises:
        InputError: anything that would spoil the run, found before the first step; a training that diverged, or a disk
            that filled up, after which the last checkpoint is whole and the same call goes on from it.
    """
    world = World.from_environment()
    with contextlib.ExitStack() as stack:
        stack.enter_context(world.connected("cpu:gloo,cuda:nccl" if options.device == "cuda" else "gloo"))
        stack.enter_context(arithmetic(options.threads, options.tf32))
        world.agree(lambda: _hold(options.out, stack) if world.first else None)
        # Before the first file written makes the tree look changed.
        made_by = provenance(options.device) if world.first else {}
        job = world.agree(lambda: prepare(options, world))
        newest = world.share(world.agree(lambda: training_files.newest(options.out) if world.first else None))
        if newest is not None:
            world.agree(lambda: resume(job, newest))
        _tell(world, _beginning(job, newest, world.size))
        logs = stack.enter_context(Logs.opened(options.out, job.training.step)) if world.first else None
        _train(options, job, world, logs)
        return world.agree(lambda: export(options.out, job, made_by) if world.first else None)


def plan(options: Options) -> Plan:
    """Recipe, network and order that the options ask for.

    Raises:
        InputError: an unknown name, or values that do not make a recipe.
    """
    named = recipes.find(options.recipe) if options.recipe is not None else None
    changes = dict(options.changes)
    networks = [name for name in options.ablation if not recipes.is_modifier(name)]
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
        if recipes.is_modifier(name):
            recipe, orders = recipes.modified(recipe, name)
            ordered = ordered and orders
    if kind == STATIC:
        recipe = dataclasses.replace(recipe, target=None, complete_warmup=0)
    network = options.model or (named.network if named else None)
    source = named.source if named else "given by options"
    return Plan(recipe, kind, ordered, network, f"{source}; changed: {_told(changes)}" if named and changes else source)


def prepare(options: Options, world: World) -> Job:
    """Read weights and data and build the training.

    Raises:
        InputError: anything of these that cannot be had, or that does not fit the others.
    """
    planned = plan(options)
    device = torch.device(options.device)
    if device.type == "cuda":
        if world.local_rank >= torch.cuda.device_count():
            raise InputError(f"process {world.local_rank} of this machine has no GPU of its own; start fewer processes")
        device = torch.device("cuda", world.local_rank)
        torch.cuda.set_device(device)
    model = build(options, planned)
    training = Training(
        model.to(device),
        planned.recipe,
        precision=options.precision,
        recompute=options.checkpointing,
        rank=world.rank,
        processes=world.size,
    )
    data = open_data(options.data, model.config, options.data_root)
    identity = {
        "recipe": dataclasses.asdict(planned.recipe),
        "network": type(model).__name__,
        "config": model.config.kwargs(),
        "ordered": planned.ordered,
        "rates": list(options.rates) if options.rates else None,
        "precision": options.precision,
        "data": data.name,
        "data_sha256": data.sha256,
        "parent_sha256": file_sha256(Path(options.source)),
    }
    return Job(planned, training, data, identity)


def build(options: Options, planned: Plan) -> DiT:
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
        ablation = ablations.find(planned.kind)
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


def _config(options: Options, planned: Plan, found: checkpoint.Checkpoint) -> DiTConfig:
    if planned.network is not None:
        return model_config(planned.network, options.resolution)
    try:
        return DiTConfig(**json.loads(found.record["config"]))
    except (KeyError, TypeError, json.JSONDecodeError):
        raise InputError(f"{options.source}: does not name its model; give --model, such as DyDiT-S/2") from None


# Checkpoints of a run


def save(options: Options, job: Job) -> Path:
    """Write a checkpoint of the present step, and remove all but the last `keep`.

    Raises:
        InputError: it cannot be written; those before it stay.
    """
    step = job.training.step
    path = options.out / "checkpoints" / f"{step:08d}.pt"
    content = {
        "schema_version": training_files.SCHEMA_VERSION,
        "identity": job.identity,
        "training": job.training.state(),
    }
    training_files.write(path, content)
    for old in sorted(path.parent.glob("[0-9]*.pt"))[: -options.keep]:
        old.unlink()
    return path


def resume(job: Job, path: Path) -> None:
    """Put a training where a checkpoint of the same run left it.

    Raises:
        InputError: it is of another run; the first field that differs is named.
    """
    content = training_files.read(path)
    mine, theirs = _flat(job.identity), _flat(content["identity"])
    for name in (*mine, *theirs):
        if mine.get(name) != theirs.get(name):
            raise InputError(
                f"output {path.parents[1]}: holds a run with {name} = {theirs.get(name)}, this one has "
                f"{mine.get(name)}; choose another directory"
            )
    job.training.restore(content["training"])


def _flat(identity: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in identity.items():
        flat |= {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
    return flat


# The run


def _hold(out: Path, stack: contextlib.ExitStack) -> None:
    """Take the output directory for this run alone, and remove what a killed one left half-written."""
    results.prepare_output(out)
    stack.enter_context(shards.exclusive(out))
    for partial in (*out.glob(".*.partial.*"), *out.glob("checkpoints/.*.partial.pt")):
        partial.unlink(missing_ok=True)


def _train(options: Options, job: Job, world: World, logs: Logs | None) -> None:
    training, steps = job.training, job.plan.recipe.steps
    work: Iterable[int] = range(training.step, steps)
    for step in track(work, "fine-tuning", total=steps - training.step) if world.first else work:
        try:
            log = training.advance(job.data.data)
        except InputError as error:  # all processes see the same sums, and stop at the same step
            if not world.first:
                sys.exit(2)
            newest = training_files.newest(options.out)
            raise InputError(f"{error}; the last checkpoint is {newest or 'none'}") from None
        if logs is not None:
            logs.add(log)
        if (step + 1) % options.save_every == 0 or step + 1 == steps:
            world.agree(lambda: _saved(options, job, log) if world.first else None)  # noqa: B023 (called at once)


def _saved(options: Options, job: Job, log: StepLog) -> None:
    path = save(options, job)
    told = f"loss {log.loss:.4f}, FLOPs ratio {log.ratio:.3f} (target {log.target:.3f})"
    status(f"step {job.training.step} of {job.plan.recipe.steps}: {told}; {path}")


def _beginning(job: Job, newest: Path | None, processes: int) -> str:
    recipe, kind = job.plan.recipe, type(job.training.model).__name__
    where = f"going on from {newest}" if newest else "from the static checkpoint"
    target = "static" if recipe.target is None else f"lambda {recipe.target}"
    return f"{kind}, {target}: step {job.training.step} of {recipe.steps}, {where}; processes: {processes}"


def provenance(device: str) -> dict[str, str]:
    """Command, commit and versions that exported files record, and the GPU where one trained them."""
    record = environment.record()
    commit = f"{record['commit']}{' (dirty)' if record['dirty'] else ''}"
    made_by = {"command": record["command"], "commit": commit, "torch": record["torch"]["version"]}
    return made_by | ({"device": torch.cuda.get_device_name()} if device == "cuda" else {})


def export(out: Path, job: Job, made_by: Mapping[str, str]) -> Path:
    """Write `model.safetensors`, `model.pt` and `README.md`; the log must be complete.

    Raises:
        InputError: a file cannot be written.
    """
    training, recipe = job.training, job.plan.recipe
    averaged = training.averaged
    outcome = training_log.outcome(out, recipe)
    record = {
        "recipe": json.dumps(dataclasses.asdict(recipe), sort_keys=True),
        "recipe_source": job.plan.source,
        "ordered": str(job.plan.ordered),
        "precision": job.identity["precision"],
        "seed": str(recipe.seed),
        "data": job.data.name,
        "data_sha256": job.data.sha256,
        "parent_sha256": job.identity["parent_sha256"],
        **made_by,
        **outcome,
    }
    path = out / "model.safetensors"
    states = {
        name: {key: value.cpu() for key, value in model.state_dict().items()}
        for name, model in (("ema", averaged), ("model", training.model))
    }
    training_files.write(out / "model.pt", states)
    try:
        checkpoint.write(path, averaged.cpu(), record)
        with atomic_path(out / "README.md") as partial:
            partial.write_text(model_card.text(averaged, record), encoding="utf-8")
    except (OSError, RuntimeError) as error:
        raise InputError(f"{out}: cannot be written ({error}); mend that and repeat the run, which goes on") from None
    return path


def _told(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in changes.items())


def _tell(world: World, message: str) -> None:
    if world.first:
        status(message)
