"""What public calls refuse in one line: shapes, timesteps, labels and wrappers that would be read as something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from dydit import DiT, DyDiT
from dydit.diffusion import Diffusion, kept_timesteps
from dydit.inference import Engine, WidthPlan
from dydit.training import InMemory, Recipe, Training
from dydit.training.loss import step_loss

SCHEDULE = Diffusion.linear()
DYNAMIC = Recipe(steps=3, batch_size=4, seed=0, target=0.5, target_hold=0, target_reached=1)


def callers(model: DiT) -> list[Callable[..., Any]]:
    """Every call that takes images, timesteps and labels of a network."""
    if not isinstance(model, DyDiT):
        return [model, Engine(model)]
    return [model, model.route, model.complete, Engine(model, WidthPlan.from_routers(model, range(1000)))]


@pytest.mark.parametrize("kind", [DiT, DyDiT])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": lambda x: x.reshape(-1, 4, 4, 16)}, "the network takes (N, 4, 8, 8)"),  # as many patches
        ({"x": lambda x: x[..., :4]}, "the network takes (N, 4, 8, 8)"),
        ({"x": lambda x: x[0]}, "input of shape (4, 8, 8)"),
        ({"x": lambda x: x[:0]}, "input of shape (0, 4, 8, 8)"),
        ({"x": lambda x: x.byte()}, "torch.uint8"),
        ({"x": lambda x: x[:1]}, "timesteps of shape (3,)"),
        ({"t": lambda t: t / 1000}, "timesteps are torch.float32"),  # as rectified flow counts them
        ({"t": lambda t: t[:1]}, "timesteps of shape (1,)"),
        ({"t": lambda t: t[:, None]}, "timesteps of shape (3, 1)"),
        ({"t": lambda t: t * 0 + 1000}, "original timesteps 0 to 999"),
        ({"t": lambda t: -t - 1}, "original timesteps 0 to 999"),
        ({"t": lambda t: 1000}, "timestep 1000; give whole numbers, original timesteps 0 to 999"),
        ({"t": lambda t: 0.5}, "timestep 0.5"),
        ({"t": lambda t: True}, "timestep True"),
        ({"y": lambda y: y[:1]}, "labels of shape (1,)"),
        ({"y": lambda y: y.float()}, "labels are torch.float32"),
        ({"y": lambda y: y > 3}, "labels are torch.bool"),
        ({"y": lambda y: y * 0 + 11}, "classes 0 to 9, the null label 10"),
        ({"y": lambda y: -y - 1}, "classes 0 to 9, the null label 10"),
    ],
)
def test_batches_that_are_none_are_refused_by_every_call(
    build, draw, refusal, kind: type[DiT], changed: dict[str, Callable[[Tensor], Tensor]], message: str
) -> None:
    model = build(kind)
    batch = dict(zip("xty", draw(model), strict=True))
    wrong = {name: changed[name](value) if name in changed else value for name, value in batch.items()}
    for call in callers(model):
        with refusal(message):
            call(*wrong.values())
        assert call(*batch.values()) is not None


@pytest.mark.parametrize("kind", [DiT, DyDiT])
def test_the_null_label_is_one_only_where_the_table_has_its_row(build, draw, refusal, kind: type[DiT]) -> None:
    with_null, without = build(kind), build(kind, class_dropout_prob=0.0)
    x, t, _ = draw(with_null)
    null = torch.full((3,), 10)
    assert (with_null.config.null_label, without.config.null_label) == (10, None)
    for call in callers(with_null):
        call(x, t, null)
    for call in callers(without):
        with refusal("labels from 10 to 10", "classes 0 to 9, no null label"):
            call(x, t, null)


def test_numbers_on_another_device_are_not_waited_for(build, draw) -> None:
    """Fake tensors of a GPU raise an error where somebody reads their numbers."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = build(DyDiT)
        model.check_inputs(*(value.to("cuda") for value in draw(model)))
    x, t, y = (value.to("meta") for value in draw(model))
    model.check_inputs(x, t + 1000, y - 100)
    SCHEDULE.add_noise(x, t + 1000, x)


def test_checks_break_no_compiled_graph(build, draw, refusal) -> None:
    model = build(DiT)
    x, t, y = draw(model)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x, t, y), model(x, t, y))


@pytest.mark.parametrize("wrap", [lambda model: torch.compile(model, backend="eager"), nn.DataParallel])
def test_a_wrapped_network_is_not_taken_for_a_static_one(build, draw, refusal, wrap: Any) -> None:
    model = build(DyDiT)
    wrapped = wrap(model)
    name, inside = type(wrapped).__name__, "give the network inside of it"
    x, t, y = draw(model)
    for make in (
        lambda: Engine(wrapped),
        lambda: Training(wrapped, DYNAMIC),
        lambda: Training(wrapped, Recipe(steps=3, batch_size=4, seed=0)),
        lambda: step_loss(wrapped, SCHEDULE, x, y, t, x, DYNAMIC, 0),
    ):
        with refusal(name, inside):
            make()
    with refusal(name, "without wrappers"):
        WidthPlan.from_routers(wrapped, [0])


def test_widths_are_planned_in_evaluation_mode_for_timesteps(build, refusal) -> None:
    model = build(DyDiT)
    for steps in ([], [1000], [-1, 3]):
        with refusal("original timesteps 0 to 999"):
            WidthPlan.from_routers(model, steps)
    with refusal("training mode"):
        WidthPlan.from_routers(build(DyDiT).train(), [3])


# Noise schedule


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_an_output_without_variances_is_neither_trained_nor_sampled_by_ddpm(refusal, channels: int) -> None:
    x, t = torch.zeros(2, channels, 4, 4), torch.tensor([0, 5])
    for call in (
        lambda: SCHEDULE.losses(x, x, x, t, x),
        lambda: SCHEDULE.ddpm_step(x, x, t, x),
        lambda: SCHEDULE.losses(torch.zeros(2, 2 * channels, 4, 2), x, x, t, x),
    ):
        with refusal("learn_sigma", "ddim"):
            call()
    assert SCHEDULE.ddim_step(x, x, t).shape == x.shape


def test_training_wants_a_network_that_predicts_its_variance(build, refusal) -> None:
    with refusal("learn_sigma = False", "training"):
        Training(build(DiT, learn_sigma=False), Recipe(steps=3, batch_size=4, seed=0))


@pytest.mark.parametrize(
    ("t", "message"),
    [
        ([-1, 4], "schedule steps from -1 to 4"),
        ([4, 1000], "give 0 to 999"),
        ([4], "of shape (1,)"),
        ([0.5, 0.5], "torch.float32"),
    ],
)
def test_steps_that_the_schedule_does_not_have_are_refused(refusal, t: list[float], message: str) -> None:
    x, output, steps = torch.zeros(2, 3, 4, 4), torch.zeros(2, 6, 4, 4), torch.tensor(t)
    for call in (
        lambda: SCHEDULE.add_noise(x, steps, x),
        lambda: SCHEDULE.losses(output, x, x, steps, x),
        lambda: SCHEDULE.ddpm_step(output, x, steps, x),
        lambda: SCHEDULE.ddim_step(output, x, steps),
    ):
        with refusal(message):
            call()


def test_one_noise_is_not_repeated_for_all_images(refusal) -> None:
    x, t = torch.zeros(2, 3, 4, 4), torch.tensor([3, 4])
    with refusal("(2, 3, 4, 4) and (1, 3, 4, 4)"):
        SCHEDULE.add_noise(x, t, x[:1])
    with refusal("(2, 3, 4, 4) and (2, 2, 4, 4)"):
        SCHEDULE.ddim_step(x[:, :2], x, t)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kept_timesteps(10, "euler"), "choose ddpm or ddim"),  # type: ignore[arg-type]
        (lambda: SCHEDULE.respaced(10, "DDIM"), "choose ddpm or ddim"),  # type: ignore[arg-type]
        (lambda: kept_timesteps(2.5, "ddpm"), "steps = 2.5"),  # type: ignore[arg-type]
        (lambda: Diffusion.linear(0), "at least one"),
        (lambda: Diffusion(torch.tensor([0.1, 1.0]), torch.tensor([0, 1])), "between 0 and 1"),
        (lambda: Diffusion(torch.tensor([0.1, float("nan")]), torch.tensor([0, 1])), "between 0 and 1"),
        (lambda: Diffusion(torch.tensor([0.1, 0.2]), torch.tensor([0])), "2 betas for timesteps (1,)"),
        (lambda: InMemory(torch.zeros(2, 3, 4), torch.zeros(2, dtype=torch.int64)), "(M, C, S, S)"),
        (lambda: InMemory(torch.zeros(2, 3, 4, 4).byte(), torch.zeros(2, dtype=torch.int64)), "torch.uint8"),
        (lambda: InMemory(torch.zeros(2, 3, 4, 4), torch.zeros(3, dtype=torch.int64)), "of the 2 images"),
        (lambda: InMemory(torch.zeros(2, 3, 4, 4), torch.zeros(2)), "torch.float32"),
    ],
)
def test_schedules_and_data_that_are_none_are_refused(refusal, make: Callable[[], object], message: str) -> None:
    with refusal(message):
        make()
