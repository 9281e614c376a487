"""Training a static DiT, and fine-tuning DyDiT by the paper's recipe (Section 3.4, Appendix A; Tables 6 and 7).

The recipe's stages: complete-model warm-up (the unmasked loss is added), a falling FLOPs target, timesteps stratified
over four quarters, an upper limit on the gradient norm, and an exponential moving average of the weights.

Every random number of a step is a function of (seed, step, place in the batch), never of a generator that runs on: a
run that was stopped goes on with nothing but its weights and its step, and several processes share a batch without a
word about it. Number of processes, accumulation and whether the weights are shared out change nothing but the order of
sums.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dydit.config import check_lambda
from dydit.diffusion import Diffusion
from dydit.dit import DiT
from dydit.dydit import DyDiT
from dydit.errors import InputError, first_line
from dydit.flops import LOSS_WEIGHT, flops_loss, flops_ratio
from dydit.parallel import gathered, share_out, shared_as, sum_over_processes, whole
from dydit.sampling import mix

STRATA = 4
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Recipe:
    """How a model is trained; steps are optimiser steps.

    `target` is lambda, None for a static model. Until `complete_warmup` the loss of the complete model is added.
    The FLOPs target stays 1 for `target_hold` steps and has fallen linearly to lambda at `target_reached`.
    A step whose gradient norm exceeds `gradient_limit` is skipped. With `flip` every image is mirrored left to right in
    half of its appearances.

    A batch is computed in parts of `micro_batch` (None: whole), whose losses are averaged. The FLOPs loss compares the
    mean ratio of a part with the target, so that the size of the parts, other than their distribution over processes,
    belongs to the recipe.

    Raises:
        InputError: a value out of range.
    """

    steps: int
    batch_size: int
    seed: int
    learning_rate: float = 1e-4
    ema_decay: float = 0.9999
    target: float | None = None
    complete_warmup: int = 0
    target_hold: int = 100
    target_reached: int = 1000
    flops_weight: float = LOSS_WEIGHT
    gradient_limit: float = float("inf")
    flip: bool = False
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        if self.target is not None:
            check_lambda(self.target)
        for name in ("steps", "batch_size", "micro_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"recipe: {name} = {value}; it must be at least 1")
        if self.micro_batch is not None and self.batch_size % self.micro_batch:
            raise InputError(
                f"recipe: batch_size {self.batch_size} is not a multiple of micro_batch {self.micro_batch}; "
                "choose a divisor"
            )
        if self.target_hold >= self.target_reached:
            raise InputError(
                f"recipe: target_hold {self.target_hold} must lie before target_reached {self.target_reached}"
            )

    @property
    def micro_batches(self) -> int:
        """Parts of a batch."""
        return self.batch_size // (self.micro_batch or self.batch_size)

    def target_at(self, step: int) -> float:
        """FLOPs target at an optimiser step, counted from 0."""
        if self.target is None:
            return 1.0
        progress = (step - self.target_hold) / (self.target_reached - self.target_hold)
        return 1.0 - (1.0 - self.target) * min(max(progress, 0.0), 1.0)


Rates = tuple[float, float, float]


@dataclass(frozen=True)
class StepLog:
    """One step: loss and achieved FLOPs ratio (means over the batch; the ratio is 1 for a static model).

    `gradient_norm` is that of all parameters, and a `skipped` step changed none of them. `target` is the FLOPs ratio
    asked for. `rates` are the open shares of heads, channel groups and tokens of every block (none in a static model).
    """

    step: int
    loss: float
    ratio: float
    gradient_norm: float
    target: float = 1.0
    skipped: bool = False
    rates: tuple[Rates, ...] = ()


class Data(Protocol):
    """What is trained on, by row."""

    def __len__(self) -> int:
        """Number of rows."""

    def batch(self, rows: Tensor, mirror: Tensor) -> tuple[Tensor, Tensor]:
        """Images or latents (n, C, S, S) and labels (n,) of rows (n,), mirrored left to right where `mirror` (n,) says.

        It may draw from torch's global generator, which has a seed of its own for every part of every batch.
        """


@dataclass(frozen=True)
class InMemory:
    """Data in memory: images (M, C, S, S) in [-1, 1], or latents, and labels (M,), on one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, rows: Tensor, mirror: Tensor) -> tuple[Tensor, Tensor]:
        """As `Data.batch`."""
        rows = rows.to(self.images.device)
        return mirrored(self.images[rows], mirror), self.labels[rows]


def mirrored(x: Tensor, chosen: Tensor) -> Tensor:
    """Images (N, C, S, S), those of `chosen` (N,) mirrored left to right."""
    return torch.where(chosen.to(x.device)[:, None, None, None], x.flip(-1), x)


def stratified_timesteps(batch: int, total: int, generator: torch.Generator) -> Tensor:
    """Timesteps (batch,) drawn in equal shares from the four quarters of [0, total)."""
    quarter = torch.arange(batch) % STRATA
    within = torch.rand(batch, generator=generator)
    return ((quarter + within) * (total / STRATA)).long().clamp(max=total - 1)


class Draws(NamedTuple):
    """The random choices of one batch, by place in it: rows of the data, which are mirrored, timesteps, and noise."""

    rows: Tensor
    mirror: Tensor
    t: Tensor
    noise: Tensor

    @classmethod
    def of(cls, recipe: Recipe, step: int, rows: int, shape: tuple[int, ...], timesteps: int) -> Draws:
        """Those of a step, from `rows` rows of data and `timesteps` timesteps; the noise of an image has `shape`."""
        generator, batch = torch.Generator().manual_seed(mix(recipe.seed, step)), recipe.batch_size
        return cls(
            torch.randint(rows, (batch,), generator=generator),
            (torch.rand(batch, generator=generator) < 0.5) & recipe.flip,
            stratified_timesteps(batch, timesteps, generator),
            torch.randn(batch, *shape, generator=generator),
        )

    def part(self, number: int, size: int) -> Draws:
        """Those of one part of the batch."""
        return Draws(*(each[number * size : (number + 1) * size] for each in self))


class Training:
    """A model in training: its weights, their moving average, optimiser and step; recipe and data decide the rest.

    Several processes make one training, each with a `Training` of its own on equal weights: they take turns with the
    parts of a batch, and sum gradients through torch.distributed, which must be initialised. With a `mesh`, each holds
    its share alone of weights, gradients, average and optimiser, and `state`, `weights` and `restore` need all of them.
    """

    def __init__(
        self,
        model: DiT,
        recipe: Recipe,
        *,
        precision: str = "fp32",
        recompute: bool = False,
        rank: int = 0,
        processes: int = 1,
        mesh: DeviceMesh | None = None,
    ) -> None:
        """Begin at step 0, with the model where it lies, or shared out over the devices of a mesh.

        Args:
            model: a DiT, or a DyDiT when the recipe has a target; trained in place.
            recipe: the schedule.
            precision: `fp32`, or `bf16` for matrix products in bfloat16; weights and losses are float32 in both.
            recompute: keep no activations inside blocks (gradient checkpointing): less memory, a third more work.
            rank: the number of this process.
            processes: how many there are.
            mesh: these processes, to share the model out to; the model is moved to its devices block by block.

        Raises:
            InputError: recipe and model do not belong together, an unknown precision, or a batch that the processes
                cannot share out.
        """
        if (recipe.target is not None) != isinstance(model, DyDiT):
            kind = type(model).__name__
            raise InputError(f"recipe: target {recipe.target} does not fit a {kind}; DyDiT needs a target")
        if precision not in PRECISIONS:
            raise InputError(f"precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
        if recipe.micro_batches % processes:
            raise InputError(
                f"recipe: {recipe.micro_batches} x {recipe.batch_size // recipe.micro_batches} images a batch cannot "
                f"be shared out to {processes} processes; choose a micro_batch so that their number is a multiple"
            )
        self.model, self.recipe, self.rank, self.processes = model.train(), recipe, rank, processes
        self.step = 0
        self.kind = type(model)  # sharing out changes the model's own
        decay = get_ema_multi_avg_fn(recipe.ema_decay)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(model, multi_avg_fn=decay)
        if mesh is not None:
            share_out(model, mesh)
            share_out(self.averaged, mesh)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.0)
        model.recompute = recompute
        self._diffusion = Diffusion.linear()
        self._device = next(model.parameters()).device
        self._half = precision == "bf16"
        self._divisor = recipe.micro_batches // (processes if mesh else 1)  # FSDP takes the mean over processes

    @property
    def averaged(self) -> DiT:
        """The moving average, in evaluation mode; before the first step it is the model itself."""
        averaged = self.average.module
        assert isinstance(averaged, DiT)
        return averaged.eval()

    def advance(self, data: Data) -> StepLog:
        """Make one step.

        Raises:
            InputError: the loss or its gradient is no longer finite; the weights are those of the step before.
        """
        recipe, config = self.recipe, self.model.config
        shape = (config.in_channels, config.input_size, config.input_size)
        draws = Draws.of(recipe, self.step, len(data), shape, len(self._diffusion))
        self.optimizer.zero_grad()
        parts = [self._part(data, draws, k) for k in range(self.rank, recipe.micro_batches, self.processes)]
        measured = torch.stack(parts).sum(0)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        if self.processes > 1:
            sum_over_processes([*gradients, measured])
        norm = whole(torch.nn.utils.get_total_norm(gradients))
        gradient_norm, loss, ratio, *rates = torch.cat([norm[None], measured]).tolist()  # the one wait for the device
        if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
            raise InputError(
                f"training diverged at step {self.step}: loss {loss}, gradient norm {gradient_norm}; "
                "lower the learning rate"
            )
        skipped = gradient_norm > recipe.gradient_limit
        if not skipped:
            self.optimizer.step()
            self.average.update_parameters(self.model)
        layers = tuple(zip(rates[::3], rates[1::3], rates[2::3], strict=True))
        log = StepLog(self.step, loss, ratio, gradient_norm, recipe.target_at(self.step), skipped, layers)
        self.step += 1
        return log

    def state(self) -> dict[str, Any]:
        """All that `restore` needs, in tensors and plain containers, alike for every number of processes.

        The tensors are the training's own; where they are shared out, whole copies in the first process alone.
        """
        parts: dict[str, Any] = {"model": self.model, "average": self.average, "optimizer": self.optimizer}
        return {"step": self.step, **{name: gathered(part.state_dict()) for name, part in parts.items()}}

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """The moving average as `ema` and the weights of the last step as `model`; tensors as in `state`."""
        return {"ema": gathered(self.averaged.state_dict()), "model": gathered(self.model.state_dict())}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state` of the same model and recipe.

        Raises:
            InputError: it belongs to another model.
        """
        try:
            for name, module in (("model", self.model), ("average", self.average)):
                module.load_state_dict(shared_as(module.state_dict(), state[name]))
            optimizer, parameters = state["optimizer"], list(self.model.parameters())
            moments = {n: shared_as(dict.fromkeys(each, parameters[n]), each) for n, each in optimizer["state"].items()}
            self.optimizer.load_state_dict({**optimizer, "state": moments})
            self.step = int(state["step"])
        except (LookupError, RuntimeError, ValueError, TypeError) as error:
            kind = self.kind.__name__
            raise InputError(f"training state: not one of this {kind} ({first_line(error)})") from None

    def _part(self, data: Data, draws: Draws, number: int) -> Tensor:
        """Add the gradient of one part of the batch; returns its share of loss, ratio and rates, (2 + 3 L,)."""
        recipe, parts, device = self.recipe, self.recipe.micro_batches, self._device
        rows, mirror, t, noise = draws.part(number, recipe.batch_size // parts)
        with seeded(mix(mix(recipe.seed, self.step), number + 1), device):
            x0, y = (each.to(device, non_blocking=True) for each in data.batch(rows, mirror))
            with torch.autocast(device.type, torch.bfloat16, enabled=self._half):
                found = step_loss(self.model, self._diffusion, x0, y, t.to(device), noise.to(x0), recipe, self.step)
            (found.loss / self._divisor).backward()  # type: ignore[no-untyped-call]
        return torch.cat([found.loss.detach()[None], found.ratio[None], found.rates.flatten()]) / parts


def train(
    model: DiT,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    *,
    track: Callable[[Iterable[int]], Iterable[int]] = lambda steps: steps,
    on_step: Callable[[StepLog], None] | None = None,
) -> DiT:
    """Train `model` in place and return its moving average, in evaluation mode.

    On the CPU the result depends on the initial weights, the data and the recipe alone.

    Args:
        model: a DiT, or a DyDiT when the recipe has a target.
        images: (M, C, S, S) in [-1, 1] (or latents), on the model's device.
        labels: (M,).
        recipe: the schedule.
        track: progress wrapper over the steps.
        on_step: called after every step.

    Raises:
        InputError: recipe and model do not belong together, or the loss is no longer finite.
    """
    training, data = Training(model, recipe), InMemory(images, labels)
    for _ in track(range(recipe.steps)):
        log = training.advance(data)
        if on_step is not None:
            on_step(log)
    return training.averaged


class Measured(NamedTuple):
    """Loss of a batch (a scalar with gradient), its mean FLOPs ratio (a scalar) and its rates (L, 3) by block."""

    loss: Tensor
    ratio: Tensor
    rates: Tensor


def step_loss(
    model: DiT, diffusion: Diffusion, x0: Tensor, y: Tensor, t: Tensor, noise: Tensor, recipe: Recipe, step: int
) -> Measured:
    """Loss of one step, the achieved FLOPs ratio, and the rates of heads, channel groups and tokens.

    Warm-up: L_DiT(dynamic) + L_DiT(complete) + FLOPs loss; afterwards the complete term is dropped.
    """
    x_t = diffusion.add_noise(x0, t, noise)

    def image_loss(output: Tensor) -> Tensor:
        return diffusion.losses(output.to(x_t.dtype), x0, x_t, t, noise).loss.mean()

    if not isinstance(model, DyDiT):
        return Measured(image_loss(model(x_t, t, y)), x_t.new_ones(()), x_t.new_ones(0, 3))
    output, routing = model.route(x_t, t, y)
    loss = image_loss(output)
    if step < recipe.complete_warmup:
        loss = loss + image_loss(model.complete(x_t, t, y))
    loss = loss + flops_loss(routing, model.config, recipe.target_at(step), recipe.flops_weight)
    with torch.no_grad():
        ratio = flops_ratio(routing, model.config).mean()
        rates = torch.stack([routing.head_rate, routing.channel_rate, routing.token_rate], -1).mean(0)
    return Measured(loss, ratio, rates)


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's global generators of the CPU and of `device` at a seed; as they were, afterwards."""
    gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if gpu else []):
        torch.default_generator.manual_seed(seed)
        if gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
