"""Training steps: what they depend on, resuming, precision, the gradient limit, and refusals."""

from __future__ import annotations

import copy
import dataclasses
import io
from typing import Any

import pytest
import torch
from torch import Tensor

from dydit import DiT, DyDiT
from dydit.diffusion import Diffusion
from dydit.sampling import mix
from dydit.training.data import InMemory, mirror_images
from dydit.training.draws import Draws, stratified_timesteps
from dydit.training.loss import step_loss
from dydit.training.recipe import Recipe
from dydit.training.trainer import StepLog, Training, train

RECIPE = Recipe(steps=3, batch_size=4, seed=0, learning_rate=1e-3, ema_decay=0.5)
DYNAMIC = dataclasses.replace(RECIPE, target=0.5, target_hold=0, target_reached=1)


def data(n: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, 4, 8, 8, generator=generator) * 2 - 1, torch.randint(10, (n,), generator=generator)


def weights(model: DiT) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def of(kind: type[DiT], **changes: Any) -> Recipe:
    return dataclasses.replace(DYNAMIC if kind is DyDiT else RECIPE, **changes)


@pytest.mark.parametrize("kind", [DiT, DyDiT])
def test_training_depends_on_weights_data_and_recipe_alone(build, kind: type[DiT]) -> None:
    results, logs = [], []
    for global_seed in (1, 2):
        model, log = build(kind), []
        torch.manual_seed(global_seed)
        state = torch.get_rng_state()
        average = train(model, *data(), of(kind), on_step=log.append)
        assert torch.equal(torch.get_rng_state(), state)
        results.append((weights(model), weights(average)))
        logs.append(log)
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)
    assert logs[0] == logs[1]
    other = build(kind)
    train(other, *data(), of(kind, seed=1))
    assert not torch.equal(weights(other), results[0][0])


@pytest.mark.parametrize("kind", [DiT, DyDiT])
def test_training_returns_the_moving_average_in_evaluation_mode(build, kind: type[DiT]) -> None:
    model = build(kind).train()
    path = [weights(model)]
    average = train(model, *data(), of(kind), on_step=lambda _: path.append(weights(model)))
    assert type(average) is kind
    assert not average.training
    expected = path[0]
    for later in path[1:]:
        expected = 0.5 * expected + 0.5 * later
    torch.testing.assert_close(weights(average), expected, rtol=1e-5, atol=1e-7)
    assert not torch.equal(weights(average), weights(model))


def test_every_step_is_logged_and_tracked(build) -> None:
    log: list[StepLog] = []
    seen: list[int] = []

    def track(steps: Any) -> Any:
        for step in steps:
            seen.append(step)
            yield step

    train(build(DiT), *data(), RECIPE, track=track, on_step=log.append)
    assert seen == [0, 1, 2] == [entry.step for entry in log]
    for entry in log:
        assert entry.ratio == 1.0
        assert entry.loss > 0
        assert entry.gradient_norm > 0


@pytest.mark.parametrize("flip", [False, True])
def test_the_stream_of_random_numbers_is_fixed(build, flip: bool) -> None:
    """Rows, mirroring, timesteps and noise of a batch, and label dropout of a micro-batch."""
    images, labels = data()
    log: list[StepLog] = []
    recipe = dataclasses.replace(RECIPE, steps=2, flip=flip, learning_rate=0.0, micro_batch=2)
    train(build(DiT), images, labels, recipe, on_step=log.append)
    epoch = torch.randperm(len(images), generator=torch.Generator().manual_seed(mix(mix(recipe.seed, 0), 0)))
    for step in range(2):
        draws = torch.Generator().manual_seed(mix(recipe.seed, step))
        chosen = epoch[step * recipe.batch_size : (step + 1) * recipe.batch_size]
        turned = torch.rand(recipe.batch_size, generator=draws) < 0.5
        x0 = mirror_images(images[chosen], turned) if flip else images[chosen]
        t = stratified_timesteps(recipe.batch_size, 1000, draws)
        noise = torch.randn(x0.shape, generator=draws)
        losses, model = [], build(DiT).train()
        for number, part in enumerate((slice(0, 2), slice(2, 4))):
            torch.manual_seed(mix(mix(recipe.seed, step), number + 1))
            y = labels[chosen][part]
            losses.append(step_loss(model, Diffusion.linear(), x0[part], y, t[part], noise[part], recipe, 0).loss)
        assert log[step].loss == pytest.approx(torch.stack(losses).mean().item(), rel=1e-6)


def test_half_of_all_appearances_are_mirrored_where_asked(build) -> None:
    seen = []

    class Watched(InMemory):
        def batch(self, rows: Tensor, mirror: Tensor) -> tuple[Tensor, Tensor]:
            seen.append(mirror)
            return super().batch(rows, mirror)

    for flip, least, most in ((True, 130, 190), (False, 0, 0)):
        seen.clear()
        training = Training(build(DiT), dataclasses.replace(RECIPE, batch_size=32, flip=flip))
        for _ in range(10):
            training.advance(Watched(*data()))
        assert least <= int(torch.cat(seen).sum()) <= most


def saved(training: Training) -> Any:
    """The state through a file, as a later process finds it."""
    buffer = io.BytesIO()
    torch.save(training.state(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def assert_same_state(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same_state(one[key], other[key])
    elif isinstance(one, Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


@pytest.mark.parametrize("kind", [DiT, DyDiT])
def test_a_run_resumed_at_any_step_equals_the_unbroken_one_to_the_bit(build, kind: type[DiT]) -> None:
    recipe = of(kind, steps=5, micro_batch=2, complete_warmup=3, flip=True)
    whole, states, logs = Training(build(kind), recipe), [], []
    for _ in range(5):
        states.append(saved(whole))
        logs.append(whole.advance(InMemory(*data())))
    for step, state in enumerate(states):
        torch.manual_seed(step)  # the global generator must not matter
        resumed = Training(build(kind, seed=9), recipe)
        resumed.restore(state)
        assert [resumed.advance(InMemory(*data())) for _ in range(step, 5)] == logs[step:]
        assert_same_state(saved(resumed), saved(whole))


def test_a_state_of_another_model_is_refused(build, refusal) -> None:
    state = saved(Training(build(DiT), RECIPE))
    with refusal("training state", "DyDiT"):
        Training(build(DyDiT), DYNAMIC).restore(state)
    with refusal("training state"):
        Training(build(DiT), RECIPE).restore({"step": 1})


def test_a_static_model_learns_the_same_from_a_batch_in_parts(build, assert_weights_agree) -> None:
    """To rounding; a DyDiT has another FLOPs loss then, which compares each part's mean ratio with the target."""
    results = []
    for micro_batch in (None, 4, 2, 1):
        model = build(DiT, class_dropout_prob=0.0)
        log: list[StepLog] = []
        train(model, *data(), of(DiT, micro_batch=micro_batch, flip=True, learning_rate=1e-4), on_step=log.append)
        results.append((model.state_dict(), torch.tensor([(entry.loss, entry.gradient_norm) for entry in log])))
    for state, log in results[1:]:
        torch.testing.assert_close(log, results[0][1], rtol=1e-5, atol=0)
        assert_weights_agree(state, results[0][0])


@pytest.mark.parametrize("kind", [DiT, DyDiT])
def test_recomputing_activations_changes_nothing(build, kind: type[DiT]) -> None:
    results = []
    for recompute in (False, True):
        training = Training(build(kind), of(kind, complete_warmup=2), recompute=recompute)
        logs = [training.advance(InMemory(*data())) for _ in range(3)]
        results.append((logs, saved(training)))
    assert results[0][0] == results[1][0]
    assert_same_state(results[0][1], results[1][1])


def test_recomputing_keeps_fewer_activations(build) -> None:
    kept = []
    for recompute in (False, True):
        model, total = build(DyDiT, depth=4).train(), 0
        model.recompute = recompute

        def pack(tensor: Tensor) -> Tensor:
            nonlocal total
            total += tensor.numel()
            return tensor

        x0, y = data(4)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model.route(x0, torch.tensor([0, 300, 600, 999]), y)
        kept.append(total)
    assert kept[1] < kept[0] / 3


@pytest.mark.parametrize("kind", [DiT, DyDiT])
def test_bf16_keeps_weights_and_losses_in_float32_and_stays_near(build, kind: type[DiT]) -> None:
    logs = []
    for precision in ("fp32", "bf16"):
        training = Training(build(kind), of(kind), precision=precision)
        logs.append(training.advance(InMemory(*data())))
        assert all(parameter.dtype is torch.float32 for parameter in training.model.parameters())
    assert logs[0].loss != logs[1].loss
    assert logs[1].loss == pytest.approx(logs[0].loss, rel=0.15)


@pytest.mark.parametrize(
    ("options", "recipe", "part"),
    [
        ({"precision": "fp16"}, RECIPE, "fp16"),
        ({"processes": 2}, RECIPE, "2 processes"),
        ({"processes": 3}, dataclasses.replace(RECIPE, micro_batch=1), "4 x 1 images"),
    ],
)
def test_what_cannot_be_trained_that_way_is_refused(
    build, refusal, options: dict[str, Any], recipe: Recipe, part: str
) -> None:
    with refusal(part):
        Training(build(DiT), recipe, **options)


@pytest.mark.parametrize("kind", [DiT, DyDiT])
def test_a_step_above_the_gradient_limit_is_skipped(build, kind: type[DiT]) -> None:
    model = build(kind)
    before, log = weights(model), []
    average = train(model, *data(), of(kind, gradient_limit=1e-9), on_step=log.append)
    assert torch.equal(weights(model), before)
    assert torch.equal(weights(average), before)
    assert len(log) == 3
    limited = build(kind)
    train(limited, *data(), of(kind, gradient_limit=2 * max(entry.gradient_norm for entry in log)))
    assert not torch.equal(weights(limited), before)


def test_a_double_step_updates_twice_and_once_above_the_limit(build) -> None:
    """Against the optimiser itself, which makes the same updates with the gradient that the trainer left."""
    limit = 1.0
    for gradient_limit, updates in ((float("inf"), 2), (limit, 1)):
        training = Training(build(DiT), of(DiT, double_steps=1, gradient_limit=gradient_limit))
        expected = build(DiT)
        log = training.advance(InMemory(*data()))
        assert log.gradient_norm > limit and not log.skipped
        for parameter, trained in zip(expected.parameters(), training.model.parameters(), strict=True):
            parameter.grad = trained.grad
        optimizer = torch.optim.AdamW(expected.parameters(), lr=RECIPE.learning_rate, weight_decay=0.0)
        for _ in range(updates):
            optimizer.step()
        assert torch.equal(weights(training.model), weights(expected))
        assert training.advance(InMemory(*data())).skipped == (gradient_limit == limit)  # only the first is double


def test_the_average_moves_towards_the_weights_after_a_skipped_step_too(build) -> None:
    training = Training(build(DiT), of(DiT, ema_decay=0.75))
    initial = weights(training.model)
    training.advance(InMemory(*data()))
    stepped = weights(training.model)
    training.recipe = of(DiT, gradient_limit=1e-9)
    assert training.advance(InMemory(*data())).skipped
    assert torch.equal(weights(training.model), stepped)
    expected = initial + (stepped - initial) * (1 - 0.75**2)
    torch.testing.assert_close(weights(training.averaged), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", [DiT, DyDiT])
def test_training_lowers_the_loss(build, kind: type[DiT]) -> None:
    log: list[StepLog] = []
    train(build(kind), *data(), of(kind, steps=40, batch_size=8), on_step=log.append)
    assert sum(e.loss for e in log[-10:]) < 0.7 * sum(e.loss for e in log[:10])


@pytest.mark.parametrize("target", [0.3, 0.7])
def test_the_achieved_ratio_falls_to_the_target(target: float) -> None:
    torch.manual_seed(0)
    model = DyDiT(input_size=8, patch_size=4, in_channels=4, hidden_size=32, depth=2, num_heads=4, num_classes=10)
    log: list[StepLog] = []
    recipe = of(DyDiT, target=target, steps=80, batch_size=16, learning_rate=0.05, flops_weight=50.0)
    train(model, *data(), recipe, on_step=log.append)
    assert log[0].ratio > 0.9
    assert sum(entry.ratio for entry in log[-10:]) / 10 == pytest.approx(target, abs=0.1)


@pytest.mark.parametrize("kind", [DiT, DyDiT])
def test_divergence_is_refused_before_the_weights_are_spoilt(build, refusal, kind: type[DiT]) -> None:
    images, labels = data()
    model = build(kind)
    before = weights(model)
    with refusal("diverged at step 0"):
        train(model, images * torch.nan, labels, of(kind))
    assert torch.equal(weights(model), before)


def test_divergence_is_told_by_row_and_part(build, refusal) -> None:
    """Data, a part of the network on one image, a loss, and a gradient whose loss is finite."""
    images, labels = data()
    recipe = of(DiT, batch_size=4, micro_batch=2)
    rows = Draws.of_step(recipe, 0, rows=len(images), shape=images.shape[1:], timesteps=1000).rows.tolist()
    broken = images.clone()
    broken[rows[3], 0, 0, 0] = torch.inf
    with refusal("diverged at step 0", f"the data hold NaN or infinity in rows {rows[3]} of the data"):
        train(build(DiT), broken, labels, recipe)
    model = build(DiT)
    model.blocks[1].mlp.fc1.weight.data.mul_(1e38)
    with refusal("diverged at step 0", "first in blocks.1.mlp.fc1, on rows"):
        train(model, images, labels, recipe)
    model = build(DiT)
    model.final_layer.linear.bias.data.fill_(1e25)  # whose square is infinite
    with refusal("first in the loss of rows", "with a finite output of the network"):
        train(model, images, labels, recipe)
    model = build(DiT)
    model.blocks[0].adaLN_modulation[1].weight.register_hook(lambda gradient: gradient * torch.nan)
    with refusal("first in the gradient of blocks.0.adaLN_modulation.1.weight"):
        train(model, images, labels, recipe)


@pytest.mark.parametrize(("kind", "recipe", "part"), [(DiT, DYNAMIC, "target 0.5"), (DyDiT, RECIPE, "target None")])
def test_a_recipe_for_another_kind_of_model_is_refused(
    build, refusal, kind: type[DiT], recipe: Recipe, part: str
) -> None:
    model = build(kind)
    before = copy.deepcopy(model.state_dict())
    with refusal(part, kind.__name__):
        train(model, *data(), recipe)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
