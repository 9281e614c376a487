"""Training a static DiT, and fine-tuning DyDiT by the paper's recipe (Section 3.4, Appendix A; Tables 6 and 7).

The recipe's stages: complete-model warm-up (the unmasked loss is added), a falling FLOPs target, timesteps stratified
over four quarters, an upper limit on the gradient norm, and an exponential moving average of the weights.

Every random number of a step is a function of (seed, step, place in the batch), never of a generator that runs on: a
run that was stopped goes on with nothing but its weights and its step, and several processes share a batch without a
word about it. Number of processes, accumulation and whether the weights are shared out change nothing but the order of
sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dydit.diffusion import Diffusion
from dydit.dit import DiT
from dydit.dydit import DyDiT
from dydit.errors import InputError, first_line
from dydit.sampling import mix
from dydit.training.batch import Data, Draws, InMemory, seeded
from dydit.training.loss import step_loss
from dydit.training.recipe import PRECISIONS, Recipe, StepLog
from dydit.training.sharding import gathered, share_out, shared_as, sum_over_processes, whole


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
