from __future__ import annotations

import pytest
import torch

from dydit import DiT, DyDiT, checkpoint, order_by_importance
from dydit.baselines import CRITERIA, Calibration, Method, prune
from dydit.baselines.importance import _losses, diff_importance, magnitude_importance, taylor_importance
from dydit.training import Recipe, train


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    generator = torch.Generator().manual_seed(0)
    return Calibration(torch.rand(4, 4, 8, 8, generator=generator) * 2 - 1, torch.arange(4))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_pruning_nothing_changes_nothing(build, draw, calibration, criterion: str) -> None:
    model = build(DiT)
    pruned = prune(model, criterion, 0.0, calibration)
    assert pruned.config == model.config
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in pruned.state_dict().items())


@pytest.mark.parametrize("criterion", CRITERIA)
def test_structures_that_add_nothing_go_first(build, draw, calibration, criterion: str) -> None:
    """Heads and channels whose outputs are multiplied by zero, and whose own weights are zero, are dead weight."""
    model = build(DiT)
    dead_heads, channels = (1, 3), range(0, 192, 2)
    with torch.no_grad():
        for block in model.blocks:
            qkv, proj = block.attn.qkv.weight.view(3, 4, 12, 48), block.attn.proj.weight.view(48, 4, 12)
            qkv[:, dead_heads], proj[:, dead_heads] = 0, 0
            block.mlp.fc1.weight[channels], block.mlp.fc1.bias[channels] = 0, 0
            block.mlp.fc2.weight[:, channels] = 0
    pruned = prune(model, criterion, 0.5, calibration)
    same = torch.allclose(pruned(*draw(model)), model(*draw(model)), rtol=1e-4, atol=1e-4)
    assert same is (criterion != "random")


def test_taylor_importance_is_the_slope_of_the_loss(build, calibration) -> None:
    """Of the loss over all timesteps, as a channel's weights shrink together: by central difference."""
    model, step = build(DiT), 1e-2
    found = taylor_importance(model, calibration, 0).channels[1, 7].item()
    losses = []
    with torch.no_grad():
        for factor in (1 + step, 1 - step):
            scaled = build(DiT)
            scaled.blocks[1].mlp.fc1.weight[7] *= factor
            scaled.blocks[1].mlp.fc2.weight[:, 7] *= factor
            losses.append(sum(loss.double().item() for loss in _losses(scaled, calibration)))
    assert found == pytest.approx(abs(losses[0] - losses[1]) / (2 * step), rel=0.02)


def test_diff_pruning_leaves_the_noisy_timesteps_out(build, calibration, monkeypatch) -> None:
    model = build(DiT)
    assert torch.equal(
        diff_importance(model, calibration, 0).heads, taylor_importance(model, calibration, 0).heads
    )  # this network's loss never falls to the share
    monkeypatch.setattr("dydit.baselines.importance.LOSS_SHARE", 0.99)
    few = diff_importance(model, calibration, 0).heads
    assert not torch.equal(few, taylor_importance(model, calibration, 0).heads)


def test_gradients_leave_the_network_as_it_was(build, calibration) -> None:
    model = build(DiT)
    taylor_importance(model, calibration, 0)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_importance_by_magnitude_orders_as_dydit_does(build) -> None:
    """The order in which DyDiT sorts heads is the order in which magnitude keeps them."""
    model = build(DiT)
    order_by_importance(model)
    heads = magnitude_importance(model).heads
    assert torch.equal(heads, heads.sort(descending=True).values)


def test_a_pruned_network_is_saved_loaded_and_fine_tuned(build, draw, tmp_path) -> None:
    pruned = prune(build(DiT), "magnitude", 0.5)
    assert (pruned.config.num_heads, pruned.config.head_dim, pruned.config.mlp_hidden) == (2, 12, 96)
    checkpoint.write(tmp_path / "pruned.safetensors", pruned)
    loaded, _ = checkpoint.load_model(tmp_path / "pruned.safetensors")
    assert type(loaded) is DiT and loaded.config == pruned.config
    inputs = draw(pruned)
    assert torch.equal(loaded(*inputs), pruned(*inputs))
    x, y = torch.rand(8, 4, 8, 8) * 2 - 1, torch.arange(8)
    tuned = train(loaded.train(), x, y, Recipe(steps=2, batch_size=4, seed=0, learning_rate=1e-2, ema_decay=0.5))
    assert not torch.equal(tuned(*inputs), pruned(*inputs))
    torch.testing.assert_close(Method(tuned)(*inputs), tuned(*inputs), rtol=1e-4, atol=1e-4)


def test_a_pruned_network_can_become_a_dydit(build, draw) -> None:
    pruned = prune(build(DiT), "magnitude", 0.5)
    dynamic = DyDiT(**pruned.config.kwargs()).eval()
    checkpoint.load_into(dynamic, checkpoint.Checkpoint(pruned.state_dict()))
    inputs = draw(pruned)
    torch.testing.assert_close(Method(dynamic)(*inputs), pruned(*inputs), rtol=1e-4, atol=1e-4)


def test_a_pruned_network_is_not_one_of_diffusers(build, refusal, tmp_path) -> None:
    with refusal("heads", "diffusers"):
        checkpoint.write_diffusers(tmp_path, prune(build(DiT), "magnitude", 0.5))


@pytest.mark.parametrize(("ratio", "parts"), [(1.0, ("ratio 1.0",)), (-0.1, ("ratio -0.1",)), (0.9, ("0.75",))])
def test_a_ratio_that_leaves_no_head_is_refused(build, refusal, ratio: float, parts: tuple[str, ...]) -> None:
    with refusal(*parts):
        prune(build(DiT), "magnitude", ratio)


def test_what_cannot_be_pruned_is_refused(build, refusal) -> None:
    with refusal("'magnitud'", "magnitude"):
        prune(build(DiT), "magnitud", 0.5)
    with refusal("DyDiT has routers"):
        prune(build(DyDiT), "magnitude", 0.5)
    with refusal("calibration images"):
        prune(build(DiT), "taylor", 0.5)
