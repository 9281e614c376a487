"""Observers of a sampling run see every step of every image once, and change nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
import torch
from torch import Tensor

from dydit import DyDiT, Observation, ObservedSampling, draw_in_batches, generate, guidance_branches
from dydit.diffusion import Diffusion
from dydit.sampling import Track

STEPS, IMAGES, BATCH = 3, 5, 2


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_observers_are_told_step_images_and_routing_and_the_images_stay_the_same(build, scale: float) -> None:
    model, diffusion = build(DyDiT), Diffusion.linear().respaced(STEPS)
    routes, seen, counted = [], [], []

    def route(x: Tensor, t: int, y: Tensor):
        output, routing = model.route(x, t, y)
        routes.append((t, y, routing))
        return output, routing

    def drawn(network) -> list[Tensor]:
        def draw_batch(indices: range, track: Track) -> tuple[Tensor, Tensor]:
            return generate(network, diffusion, (4, 8, 8), 10, indices, seed=1, scale=scale, track=track)

        return [x for _, x, _ in draw_in_batches(draw_batch, IMAGES, BATCH, STEPS)]

    observed = ObservedSampling(route, STEPS, guidance_branches(scale), seen.append, counted.append)
    for x, expected in zip(drawn(observed), drawn(model), strict=True):
        assert torch.equal(x, expected)
    assert [(o.indices, o.step) for o in seen] == [
        (indices, step) for indices in (range(2), range(2, 4), range(4, 5)) for step in range(STEPS)
    ]
    assert counted == seen and all(isinstance(o, Observation) for o in seen)
    for observation, (t, y, routing) in zip(seen, routes, strict=True):
        assert observation.routing is routing
        assert t == diffusion.timestep_map.flip(0)[observation.step]
        images = len(observation.indices)
        assert len(y) == images * guidance_branches(scale) and (y[images:] == 10).all()


def test_batches_cover_all_images_in_order_under_one_progress_display() -> None:
    displays = []

    def track(steps: Iterable[int]) -> Iterator[int]:
        displays.append([])
        for step in steps:
            displays[-1].append(step)
            yield step
        displays[-1].append("ended")

    def draw_batch(indices: range, wrap: Track) -> tuple[Tensor, Tensor]:
        for _ in wrap(range(STEPS)):
            pass
        return torch.tensor(indices), -torch.tensor(indices)

    batches = list(draw_in_batches(draw_batch, IMAGES, BATCH, STEPS, track))
    assert [indices for indices, _, _ in batches] == [range(2), range(2, 4), range(4, 5)]
    assert torch.cat([x for _, x, _ in batches]).tolist() == [0, 1, 2, 3, 4]
    assert torch.cat([y for _, _, y in batches]).tolist() == [0, -1, -2, -3, -4]
    assert displays == [[*range(3 * STEPS), "ended"]]
