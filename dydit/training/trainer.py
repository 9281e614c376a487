"""Training of a static DiT, and fine-tuning of DyDiT by the paper's recipe (Section 3.4, Appendix A; Tables 6 and 7).

Every random number of a step is a function of the seed, the step and the place in the batch, never of a generator that
is carried from step to step. A stopped run therefore continues from its weights, its optimiser and its step alone, and
several processes can divide a batch without exchanging random numbers. The number of processes, the number of
micro-batches per process and sharding change only the order in which numbers are summed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dydit.diffusion import Diffusion
from dydit.dit import DiT
from dydit.dydit import DyDiT, is_router_key
from dydit.errors import InputError, first_line
from dydit.training.data import Data, InMemory
from dydit.training.divergence import tell_divergence
from dydit.training.draws import Draws
from dydit.training.loss import StepLoss, micro_batch_loss
from dydit.training.recipe import Recipe
from dydit.training.sharding import first_text, full_tensor, gather_state, shard_like, shard_model, sum_over_processes

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class StepLog:
    """What one step measured, over all micro-batches and processes.

    Args:
        step: counted from 0.
        loss: mean over the batch.
        ratio: FLOPs ratio that the masks claim, mean over the batch; 1 for a static network.
        gradient_norm: L2 norm of the gradient of all parameters.
        target: FLOPs ratio aimed at in this step.
        skipped: whether the step changed no weight, because the norm was above the recipe's limit.
        rates: per block, the open shares of heads, channel groups and tokens; empty for a static network.
    """

    step: int
    loss: float
    ratio: float
    gradient_norm: float
    target: float = 1.0
    skipped: bool = False
    rates: tuple[tuple[float, float, float], ...] = ()


class Training:
    """A network in training: its weights, their moving average, the optimiser and the step.

    Several processes can work on one training, each with its own `Training` that starts from equal weights: they take
    the micro-batches of a batch in turn and add up their gradients through torch.distributed, which must be
    initialised. With a `mesh`, each process keeps only its shard of weights, gradients, average and optimiser, and all
    of them must call `state`, `weights` and `restore` together.
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
        """Begin at step 0, with the model on the device where it is, or sharded over the devices of a mesh.

        Args:
            model: a DiT, or a DyDiT when the recipe has a target; trained in place.
            recipe: how it is trained.
            precision: `fp32`, or `bf16` for matrix products in bfloat16; weights and losses are float32 in both.
            recompute: keep no activations inside blocks (gradient checkpointing): less memory, a third more work.
            rank: number of this process.
            processes: number of processes.
            mesh: of these processes, to shard the model over; the model moves to its devices block by block.

        Raises:
            InputError: no DiT, such as what torch.compile made of one; a network that predicts no variance, which the
                loss trains, too; a recipe that does not fit the model, an unknown precision, or micro-batches that
                cannot be divided equally among the processes.
        """
        if not isinstance(model, DiT):  # a DyDiT would be trained as a static network
            raise InputError(f"training: {type(model).__name__} is no DiT or DyDiT; give the network inside of it")
        if not model.config.learn_sigma:
            raise InputError(
                "training: the network predicts no variance (learn_sigma = False), which the loss trains, too; start "
                "from a network with twice as many output channels as input channels"
            )
        if (recipe.target is not None) != isinstance(model, DyDiT):
            kind = type(model).__name__
            raise InputError(f"recipe: target {recipe.target} does not fit a {kind}; DyDiT needs a target")
        if precision not in PRECISIONS:
            raise InputError(f"precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
        if recipe.micro_batches % processes:
            raise InputError(
                f"recipe: {recipe.micro_batches} x {recipe.micro_batch_size} images a batch cannot "
                f"be shared out to {processes} processes; choose a micro_batch so that their number is a multiple"
            )
        self.model, self.recipe, self.rank, self.processes = model.train(), recipe, rank, processes
        self.step = 0
        self.kind = type(model)  # sharding replaces the model's own class
        decay = get_ema_multi_avg_fn(recipe.ema_decay)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(model, multi_avg_fn=decay)
        if mesh is not None:
            shard_model(model, mesh)
            shard_model(self.averaged, mesh)
        self.average.update_parameters(model)  # the first update copies: the average begins at the initial weights
        self.optimizer = torch.optim.AdamW(parameter_groups(model, recipe), lr=recipe.learning_rate, weight_decay=0.0)
        model.recompute = recompute
        self._diffusion = Diffusion.linear()
        self._half = precision == "bf16"
        self._divisor = recipe.micro_batches // (processes if mesh else 1)  # FSDP takes the mean over processes

    @property
    def averaged(self) -> DiT:
        """The moving average, in evaluation mode; before the first step it holds the initial weights."""
        averaged = self.average.module
        assert isinstance(averaged, DiT)
        return averaged.eval()

    def advance(self, data: Data) -> StepLog:
        """Make one step.

        Raises:
            InputError: the loss or its gradient is not finite; the weights are those of the step before.
        """
        recipe, config = self.recipe, self.model.config
        shape = (config.in_channels, config.input_size, config.input_size)
        draws = Draws.of_step(recipe, self.step, rows=len(data), shape=shape, timesteps=len(self._diffusion))
        self.optimizer.zero_grad()
        own = range(self.rank, recipe.micro_batches, self.processes)
        measured = torch.stack([self._micro_batch(data, draws, index) for index in own]).sum(0)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        if self.processes > 1:
            sum_over_processes([*gradients, measured])
        norm = full_tensor(torch.nn.utils.get_total_norm(gradients))
        # The only place in a step where the CPU waits for the device.
        gradient_norm, loss, ratio, *rates = torch.cat([norm[None], measured]).tolist()
        if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
            where = self._where_not_finite(data, draws)
            raise InputError(
                f"training diverged at step {self.step}: loss {loss}, gradient norm {gradient_norm}"
                f"{', ' + where if where else ''}; lower the learning rate"
            )
        updates = (gradient_norm <= recipe.gradient_limit) + (self.step < recipe.double_steps)
        for _ in range(updates):
            self.optimizer.step()
        self.average.update_parameters(self.model)
        layers = tuple(zip(rates[::3], rates[1::3], rates[2::3], strict=True))
        log = StepLog(self.step, loss, ratio, gradient_norm, recipe.target_at(self.step), updates == 0, layers)
        self.step += 1
        return log

    def state(self) -> dict[str, Any]:
        """All that `restore` needs, in tensors and plain containers; the same for every number of processes.

        The tensors are the training's own, not copies. Of a sharded training they are whole copies on the CPU in the
        first process, and None in the others.
        """
        parts: dict[str, Any] = {"model": self.model, "average": self.average, "optimizer": self.optimizer}
        return {"step": self.step, **{name: gather_state(part.state_dict()) for name, part in parts.items()}}

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """The moving average as `ema` and the weights of the last step as `model`; tensors as in `state`."""
        return {"ema": gather_state(self.averaged.state_dict()), "model": gather_state(self.model.state_dict())}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from the `state` of a training of the same network by the same recipe.

        Raises:
            InputError: the state is that of another network.
        """
        try:
            for name, module in (("model", self.model), ("average", self.average)):
                module.load_state_dict(shard_like(module.state_dict(), state[name]))
            optimizer = state["optimizer"]
            parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            moments = {
                n: shard_like(dict.fromkeys(each, parameters[n]), each) for n, each in optimizer["state"].items()
            }
            self.optimizer.load_state_dict({**optimizer, "state": moments})
            if type(state["step"]) is not int or state["step"] < 0:
                raise ValueError(f"step {str(state['step'])[:20]}")
            self.step = state["step"]
        except (LookupError, RuntimeError, ValueError, TypeError) as error:
            kind = self.kind.__name__
            raise InputError(f"training state: not one of this {kind} ({first_line(error)})") from None

    def _micro_batch(self, data: Data, draws: Draws, index: int) -> Tensor:
        """Add the gradient of one micro-batch, and return its part of the batch's loss, ratio and rates, (2 + 3 L,)."""
        loss, ratio, rates = self._loss(data, draws, index)
        (loss / self._divisor).backward()  # type: ignore[no-untyped-call]
        return torch.cat([loss.detach()[None], ratio[None], rates.flatten()]) / self.recipe.micro_batches

    def _loss(self, data: Data, draws: Draws, index: int) -> StepLoss:
        return micro_batch_loss(self.model, self._diffusion, data, draws, self.recipe, self.step, index, self._half)

    def _where_not_finite(self, data: Data, draws: Draws) -> str:
        """Where the step stopped being finite, in words; all processes call this."""
        own = range(self.rank, self.recipe.micro_batches, self.processes)
        size = self.recipe.micro_batch_size
        text = tell_divergence(self.model, data, draws, size, own, lambda index: self._loss(data, draws, index).loss)
        return first_text(text) if self.processes > 1 else text


def parameter_groups(model: DiT, recipe: Recipe) -> list[dict[str, Any]]:
    """The parameters of a network as AdamW takes them: all but the routers', then the routers' with their own rate."""
    routers = [parameter for name, parameter in model.named_parameters() if is_router_key(name)]
    others = [parameter for name, parameter in model.named_parameters() if not is_router_key(name)]
    groups: list[dict[str, Any]] = [{"params": others}]
    if routers:
        groups.append({"params": routers, "lr": recipe.learning_rate * recipe.router_learning_rate})
    return groups


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
        images: (M, C, S, S) in [-1, 1], or latents, on the model's device.
        labels: (M,), int64, on the same device.
        recipe: how it is trained.
        track: wraps the iteration over the steps, to show progress.
        on_step: called after every step with its log.

    Raises:
        InputError: a recipe that does not fit the model, or a loss that is not finite.
    """
    training, data = Training(model, recipe), InMemory(images, labels)
    for _ in track(range(recipe.steps)):
        log = training.advance(data)
        if on_step is not None:
            on_step(log)
    return training.averaged
