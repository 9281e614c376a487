from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dydit import DiT, DyDiT
from dydit.diffusion import Diffusion
from dydit.sampling import ImageNoise, denoise, draw, generate, guided, predict

CLASSES, SHAPE = 10, (4, 8, 8)
SHORT = {"ddpm": Diffusion.linear().respaced(5), "ddim": Diffusion.linear().respaced(5, "ddim")}


class Recorder:
    """A network that notes what it is shown."""

    def __init__(self, channels: int = 4) -> None:
        self.seen: list[tuple[list[int] | int, list[int]]] = []
        self.weight = torch.randn(2 * channels, channels, generator=torch.Generator().manual_seed(0)) * 0.2

    def __call__(self, x: Tensor, t: Tensor | int, y: Tensor) -> Tensor:
        self.seen.append((t.tolist() if isinstance(t, Tensor) else t, y.tolist()))
        return torch.tanh(torch.einsum("oc,nchw->nohw", self.weight, x) + y[:, None, None, None] / 10)


def close(actual: Tensor, expected: Tensor) -> None:
    """Equal within 1e-5 of the images' size: the images of a random network grow."""
    scale = max(1.0, expected.abs().amax().item())
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * scale)


def images(model: Any, indices: list[int], sampler: str = "ddpm", scale: float = 1.5) -> tuple[Tensor, Tensor]:
    return generate(model, SHORT[sampler], SHAPE, CLASSES, indices, seed=7, scale=scale, sampler=sampler)


@given(indices=st.lists(st.integers(0, 10**6), min_size=1, max_size=6, unique=True), seed=st.integers(0, 2**40))
@settings(max_examples=30, deadline=None)
def test_labels_and_noise_of_an_image_do_not_depend_on_its_batch(indices: list[int], seed: int) -> None:
    batch = ImageNoise(seed, indices)
    labels, noises = batch.labels(CLASSES), [batch.normal((2, 3)) for _ in range(3)]
    for place, index in reversed(list(enumerate(indices))):
        alone = ImageNoise(seed, [index])
        assert torch.equal(alone.labels(CLASSES), labels[place : place + 1])
        for noise in noises:
            assert torch.equal(alone.normal((2, 3)), noise[place : place + 1])


def test_neighbouring_seeds_and_indices_share_nothing() -> None:
    drawn = [ImageNoise(seed, [index]).normal((16,)) for seed in range(8) for index in range(8)]
    assert len({tuple(row.flatten().tolist()) for row in drawn}) == 64


def test_labels_are_uniform_and_noise_is_standard_normal() -> None:
    source = ImageNoise(0, range(2000))
    counts = source.labels(CLASSES).bincount(minlength=CLASSES)
    assert len(counts) == CLASSES
    assert ((counts - 200).abs() < 60).all()  # 4.5 standard deviations
    noise = source.normal((16,))
    assert noise.mean().item() == pytest.approx(0, abs=0.03)
    assert noise.std().item() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("kind", [DiT, DyDiT])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_an_image_depends_on_its_index_alone(build, kind: type[DiT], sampler: str) -> None:
    model = build(kind)
    whole, labels = images(model, [0, 1, 2, 3, 4], sampler)
    order = [3, 0, 4]
    some, some_labels = images(model, order, sampler)
    assert torch.equal(some_labels, labels[order])
    close(some, whole[order])
    alone, label = images(model, [2], sampler)
    assert torch.equal(label, labels[2:3])
    close(alone, whole[2:3])
    assert (whole[0] - whole[1]).abs().amax() > 0.1


def test_the_seed_changes_every_image(build) -> None:
    model = build(DiT)
    first, second = (generate(model, SHORT["ddim"], SHAPE, CLASSES, [0], seed=s, scale=1.0)[0] for s in (0, 1))
    assert (first - second).abs().amax() > 0.1


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_scale_one_is_the_unguided_sampler_and_shows_no_null_label(sampler: str) -> None:
    model = Recorder()
    drawn, labels = images(model, [0, 1, 2], sampler, scale=1.0)
    assert all(y == labels.tolist() for _, y in model.seen)
    source = ImageNoise(7, [0, 1, 2])
    y, x = source.labels(CLASSES), source.normal(SHAPE)
    expected = denoise(model, SHORT[sampler], x, y, noise=lambda _: source.normal(SHAPE), sampler=sampler)
    assert torch.equal(drawn, expected)


def test_guidance_shows_every_image_twice_with_its_label_and_the_null_label() -> None:
    model = Recorder()
    _, labels = images(model, [0, 1, 2])
    timesteps = SHORT["ddpm"].timestep_map.tolist()[::-1]
    assert model.seen == [(t, labels.tolist() + [CLASSES] * 3) for t in timesteps]


@pytest.mark.parametrize("scale", [0.0, 1.0, 1.5, 4.0])
@pytest.mark.parametrize(("channels", "guided_channels"), [(4, 3), (3, 3), (1, 1)])
def test_guidance_moves_the_noise_of_the_first_three_channels(
    scale: float, channels: int, guided_channels: int
) -> None:
    model = Recorder(channels)
    x = torch.randn(2, channels, 4, 4, generator=torch.Generator().manual_seed(1))
    t, y, null = torch.tensor([5, 9]), torch.tensor([1, 2]), torch.tensor([CLASSES, CLASSES])
    with_label, without = model(x, t, y), model(x, t, null)
    junk = torch.full_like(x, torch.nan)  # the second half of the input is not looked at
    output = guided(model, torch.cat([x, junk]), torch.cat([t, t]), torch.cat([y, null]), scale)
    eps = without[:, :guided_channels] + scale * (with_label - without)[:, :guided_channels]
    for half, own in zip(output.chunk(2), (with_label, without), strict=True):
        torch.testing.assert_close(half[:, :guided_channels], eps)
        assert torch.equal(half[:, guided_channels:], own[:, guided_channels:])


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_every_step_is_reported_once(sampler: str) -> None:
    states: list[Tensor] = []
    tracked: list[int] = []

    def track(steps: Any) -> Any:
        for step in steps:
            tracked.append(step)
            yield step

    x = torch.randn(2, *SHAPE)
    taken: list[int] = []
    result = denoise(
        Recorder(),
        SHORT[sampler],
        x,
        torch.tensor([1, 2]),
        noise=lambda k: taken.append(k) or torch.zeros_like(x),
        sampler=sampler,
        on_step=states.append,
        track=track,
    )
    assert len(states) == 5
    assert states[-1] is result
    assert tracked == [4, 3, 2, 1, 0]
    assert taken == ([0, 1, 2, 3, 4] if sampler == "ddpm" else [])


def test_guidance_without_a_null_label_is_refused(refusal) -> None:
    x = torch.randn(1, *SHAPE)
    with refusal("null_label", "1.5"):
        denoise(Recorder(), SHORT["ddim"], x, torch.tensor([1]), noise=lambda _: x, scale=1.5)


@pytest.mark.parametrize("scale", [0.0, 0.5, -1.0, float("nan"), float("inf")])
def test_a_scale_below_one_is_not_taken_for_none(refusal, build, scale: float) -> None:
    model, x = build(DiT), torch.zeros(1, *SHAPE)
    with refusal(f"scale = {scale}"):
        images(model, [0], scale=scale)
    with refusal(f"scale = {scale}"):
        predict(model, x, 5, torch.tensor([1]), scale, CLASSES)


@pytest.mark.parametrize(
    ("sampler", "labels", "indices", "classes", "message"),
    [
        ("euler", [1], [0], 10, "choose ddpm or ddim"),
        ("ddim", [11], [0], 10, "labels from 11 to 11"),
        ("ddim", [-1], [0], 10, "labels from -1 to -1"),
        ("ddim", [1.5], [0], 10, "labels are torch.float32"),
        ("ddim", [1, 2], [0], 10, "give one for each image"),
        ("ddim", [1], [], 10, "no index"),
        ("ddim", [1], [0], 0, "num_classes = 0"),
    ],
)
def test_what_no_run_can_be_made_of_is_refused_before_the_first_step(
    refusal, sampler: Any, labels: list[Any], indices: list[int], classes: int, message: str
) -> None:
    model, x = Recorder(), torch.zeros(1, *SHAPE)
    with refusal(message):
        if indices == [0] and classes == 10:
            denoise(
                model, SHORT["ddim"], x, torch.tensor(labels), noise=lambda _: x, sampler=sampler, null_label=classes
            )
        generate(model, SHORT["ddim"], SHAPE, classes, indices, seed=0, scale=1.0)
    assert model.seen == []


@pytest.mark.parametrize(("rows", "labels"), [(3, 3), (4, 2), (2, 4)])
def test_guidance_of_rows_that_are_no_pairs_is_refused(refusal, rows: int, labels: int) -> None:
    x, t = torch.zeros(rows, *SHAPE), torch.zeros(rows, dtype=torch.int64)
    with refusal(f"{rows} images", f"{labels} labels"):
        guided(Recorder(), x, t, torch.zeros(labels, dtype=torch.int64), 2.0)


def test_sampling_leaves_the_global_random_state_alone(build) -> None:
    model = build()
    state = torch.get_rng_state()
    images(model, [0, 1])
    assert torch.equal(torch.get_rng_state(), state)


def test_predict_is_the_network_alone_at_scale_one_and_the_first_half_of_a_guided_batch_else() -> None:
    model, x, y = Recorder(), torch.randn(2, *SHAPE), torch.tensor([1, 2])
    t, doubled = torch.tensor([500, 500]), torch.tensor([1, 2, CLASSES, CLASSES])
    assert torch.equal(predict(model, x, 500, y, 1.0, CLASSES), model(x, t, y))
    expected = guided(model, torch.cat([x, x]), torch.cat([t, t]), doubled, 2.0)[:2]
    assert torch.equal(predict(model, x, 500, y, 2.0, CLASSES), expected)
    assert [timesteps for timesteps, _ in model.seen] == [500, [500] * 2, [500] * 4, 500]


def test_any_sampler_is_given_the_noise_of_each_image() -> None:
    drawn: list[Tensor] = []

    def solve(x: Tensor, y: Tensor, noise: Any) -> Tensor:
        drawn.extend([x, noise(0), noise(1)])
        return x + y[:, None, None, None]

    result, labels = draw(solve, SHAPE, CLASSES, [5, 3], seed=7)
    source = ImageNoise(7, [5, 3])
    assert torch.equal(labels, source.labels(CLASSES))
    for noise in drawn:
        assert torch.equal(noise, source.normal(SHAPE))
    assert torch.equal(result, drawn[0] + labels[:, None, None, None])
