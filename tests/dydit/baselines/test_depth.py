from __future__ import annotations

import pytest
import torch

from dydit import DiT, DyDiT
from dydit.ablations.networks import LayerSkip
from dydit.baselines import SkippedBlocks, apply_method, remove_layers


@pytest.mark.parametrize("kind", [DiT, DyDiT])
def test_removed_layers_are_those_that_a_walk_skips(build, sampled, kind: type[DiT]) -> None:
    model = build(kind, depth=4)
    removed = remove_layers(model, [1, 3])
    assert removed.config.depth == 2
    skipped = apply_method(model, "skip:1+3")
    torch.testing.assert_close(sampled(skipped), sampled(removed), rtol=1e-4, atol=1e-4)


def test_an_empty_list_removes_nothing(build) -> None:
    model = build(DiT)
    same = remove_layers(model, [])
    assert same.config == model.config
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in same.state_dict().items())


def test_a_schedule_begins_anew_at_its_end(build) -> None:
    ran: list[int] = []
    walk = SkippedBlocks([[0], [], [1, 2]])
    for position in range(4):
        walk(position, 3, torch.empty(0), ran.append)
    assert ran == [1, 2, 0, 1, 2, 0, 1, 2]
    assert walk.blocks_run(build(DiT, depth=3).config, 4) == 2.0


def test_layers_that_are_not_there_are_refused(build, refusal) -> None:
    model = build(DiT)
    with refusal("layer 2", "has 2", "0 to 1"):
        remove_layers(model, [0, 2])
    with refusal("layer -1"):
        apply_method(model, "skip:-1")
    with refusal("all 2"):
        remove_layers(model, [0, 1])
    with refusal("schedule is empty"):
        SkippedBlocks([])
    with refusal("LayerSkip is an ablation"):
        remove_layers(build(LayerSkip), [0])
