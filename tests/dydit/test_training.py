from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dydit import DiT, DyDiT
from dydit.diffusion import Diffusion
from dydit.flops import flops_loss, flops_ratio
from dydit.training import Recipe, StepLog, mirrored, step_loss, stratified_timesteps, train

RECIPE = Recipe(steps=3, batch_size=4, seed=0, learning_rate=1e-3, ema_decay=0.5)
DYNAMIC = dataclasses.replace(RECIPE, target=0.5, target_hold=0, target_reached=1)


def data(n: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, 4, 8, 8, generator=generator) * 2 - 1, torch.randint(10, (n,), generator=generator)


def weights(model: DiT) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def of(kind: type[DiT], **changes: Any) -> Recipe:
    return dataclasses.replace(DYNAMIC if kind is DyDiT else RECIPE, **changes)


@pytest.mark.parametrize(
    ("step", "target"),
    [(0, 1.0), (99, 1.0), (100, 1.0), (550, 0.75), (1000, 0.5), (1001, 0.5), (10**6, 0.5)],
)
def test_the_target_is_held_then_falls_linearly_then_stays(step: int, target: float) -> None:
    recipe = Recipe(steps=1, batch_size=1, seed=0, target=0.5)
    assert recipe.target_at(step) == pytest.approx(target, abs=1e-12)


@given(target=st.floats(0.01, 1.0), hold=st.integers(0, 500), fall=st.integers(1, 500), step=st.integers(0, 2000))
@settings(max_examples=50, deadline=None)
def test_the_target_never_rises_and_stays_between_lambda_and_one(
    target: float, hold: int, fall: int, step: int
) -> None:
    recipe = Recipe(steps=1, batch_size=1, seed=0, target=target, target_hold=hold, target_reached=hold + fall)
    now, then = recipe.target_at(step), recipe.target_at(step + 1)
    assert target - 1e-12 <= then <= now <= 1.0


def test_a_static_recipe_has_target_one() -> None:
    assert RECIPE.target_at(10**6) == 1.0


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"target": 0.0}, "lambda = 0.0"),
        ({"target": 1.5}, "lambda = 1.5"),
        ({"target": math.nan}, "lambda = nan"),
        ({"steps": 0}, "steps = 0"),
        ({"batch_size": -1}, "batch_size = -1"),
        ({"target_hold": 5, "target_reached": 5}, "target_hold 5"),
    ],
)
def test_a_recipe_out_of_range_is_refused(refusal, change: dict[str, float], part: str) -> None:
    with refusal(part):
        dataclasses.replace(DYNAMIC, **change)


@given(batch=st.integers(1, 64), total=st.sampled_from([1000, 250, 10]), seed=st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_timesteps_come_in_equal_shares_from_the_four_quarters(batch: int, total: int, seed: int) -> None:
    t = stratified_timesteps(batch, total, torch.Generator().manual_seed(seed))
    assert t.shape == (batch,)
    assert t.dtype == torch.int64
    assert ((t >= 0) & (t < total)).all()
    if total % 4 == 0:
        shares = (t // (total // 4)).bincount(minlength=4)
        assert shares.max() - shares.min() <= 1
        assert shares.sum() == batch


def test_every_timestep_is_drawn() -> None:
    t = stratified_timesteps(40_000, 1000, torch.Generator().manual_seed(0))
    counts = t.bincount(minlength=1000)
    assert len(counts) == 1000
    assert counts.min() >= 10


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
    path = []
    average = train(model, *data(), of(kind), on_step=lambda _: path.append(weights(model)))
    assert type(average) is kind
    assert not average.training
    expected = path[0]  # the average starts at the first step's weights
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


def test_mirroring_turns_half_of_the_images_left_to_right() -> None:
    x, _ = data(400)
    mirror = mirrored(x, torch.Generator().manual_seed(0))
    turned = (mirror == x.flip(-1)).flatten(1).all(1)
    kept = (mirror == x).flatten(1).all(1)
    assert torch.equal(turned, ~kept)
    assert 150 < int(turned.sum()) < 250


@pytest.mark.parametrize("flip", [False, True])
def test_the_stream_of_random_numbers_is_fixed_and_mirroring_draws_only_when_asked(build, flip: bool) -> None:
    """Indices, (mirroring,) timesteps, noise: the committed checkpoints were trained with this stream."""
    images, labels = data()
    log: list[StepLog] = []
    recipe = dataclasses.replace(RECIPE, steps=1, flip=flip)
    train(build(DiT), images, labels, recipe, on_step=log.append)
    draws = torch.Generator().manual_seed(recipe.seed)
    chosen = torch.randint(len(images), (recipe.batch_size,), generator=draws)
    x0 = mirrored(images[chosen], draws) if flip else images[chosen]
    t = stratified_timesteps(recipe.batch_size, 1000, draws)
    noise = torch.randn(x0.shape, generator=draws)
    model = build(DiT).train()
    torch.manual_seed(recipe.seed)  # label dropout
    loss, _ = step_loss(model, Diffusion.linear(), x0, labels[chosen], t, noise, recipe, 0)
    assert log[0].loss == loss.item()


def noised(diffusion: Diffusion) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    x0, y = data(4)
    t = torch.tensor([0, 300, 600, 999])
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(3))
    return x0, y, t, noise, diffusion.add_noise(x0, t, noise)


@pytest.mark.parametrize(("step", "complete"), [(0, True), (9, True), (10, False), (500, False)])
def test_the_complete_model_counts_during_warm_up_alone(build, step: int, complete: bool) -> None:
    recipe = Recipe(20, 4, 0, target=0.5, complete_warmup=10, target_hold=5, target_reached=25, flops_weight=3.0)
    model, diffusion = build().train(), Diffusion.linear()
    x0, y, t, noise, x_t = noised(diffusion)
    torch.manual_seed(5)
    loss, ratio = step_loss(model, diffusion, x0, y, t, noise, recipe, step)
    torch.manual_seed(5)
    output, routing = model.route(x_t, t, y)
    expected = diffusion.losses(output, x0, x_t, t, noise).loss.mean()
    expected = expected + flops_loss(routing, model.config, recipe.target_at(step), 3.0)
    if complete:
        expected = expected + diffusion.losses(model.complete(x_t, t, y), x0, x_t, t, noise).loss.mean()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    assert ratio == flops_ratio(routing, model.config).mean().item()
    assert 0 < ratio < 1


def test_a_static_model_has_the_diffusion_loss_alone(build) -> None:
    model, diffusion = build(DiT), Diffusion.linear()
    x0, y, t, noise, x_t = noised(diffusion)
    loss, ratio = step_loss(model, diffusion, x0, y, t, noise, RECIPE, 0)
    assert torch.equal(loss, diffusion.losses(model(x_t, t, y), x0, x_t, t, noise).loss.mean())
    assert ratio == 1.0


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
