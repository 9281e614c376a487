from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dydit import DiT, DyDiT
from dydit.dit import Attention, LabelEmbedder, Mlp, sincos_table, timestep_features

NULL = 10


@pytest.mark.parametrize(("width", "grid"), [(8, 1), (16, 3), (48, 4), (384, 16)])
def test_position_table_is_sine_then_cosine_of_column_then_row(width: int, grid: int) -> None:
    expected = np.empty((grid * grid, width))
    quarter = width // 4
    for token in range(grid * grid):
        row, column = divmod(token, grid)
        for k in range(quarter):
            frequency = 10000.0 ** (-k / quarter)
            expected[token, k] = np.sin(column * frequency)
            expected[token, quarter + k] = np.cos(column * frequency)
            expected[token, 2 * quarter + k] = np.sin(row * frequency)
            expected[token, 3 * quarter + k] = np.cos(row * frequency)
    table = sincos_table(width, grid)
    assert table.shape == (1, grid * grid, width)
    assert table.dtype == torch.float32
    np.testing.assert_allclose(table[0], expected, rtol=0, atol=1e-7)


def test_timestep_features_are_cosines_then_sines_of_falling_frequencies() -> None:
    t = torch.tensor([0, 1, 500, 999])
    angles = t.numpy()[:, None] * 10000.0 ** (-np.arange(128) / 128)
    expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    np.testing.assert_allclose(timestep_features(t), expected, rtol=0, atol=1e-4)  # float32 angles up to 999


@pytest.mark.parametrize("kind", [DiT, DyDiT])
def test_a_fresh_model_predicts_zero(kind: type[DiT]) -> None:
    model = kind(input_size=8, patch_size=2, in_channels=4, hidden_size=48, depth=2, num_heads=4, num_classes=10)
    output = model(torch.randn(2, 4, 8, 8), torch.tensor([0, 999]), torch.tensor([0, NULL]))
    assert not output.any()


@pytest.mark.parametrize(
    "config",
    [{}, {"patch_size": 4}, {"patch_size": 8}, {"in_channels": 1}, {"learn_sigma": False}, {"mlp_ratio": 2.0}],
)
def test_output_has_the_size_of_the_input(build, draw, config: dict[str, float]) -> None:
    model = build(DiT, **config)
    x, t, y = draw(model)
    output = model(x, t, y)
    channels = x.shape[1] * (1 if config.get("learn_sigma") is False else 2)
    assert output.shape == (3, channels, 8, 8)
    assert output.std() > 0.01


def test_unpatchify_puts_every_token_at_its_place(build) -> None:
    model = build(DiT, learn_sigma=False)
    image = torch.arange(2 * 4 * 8 * 8.0).reshape(2, 4, 8, 8)
    patches = torch.stack(
        [
            image[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].permute(0, 2, 3, 1).flatten(1)
            for row in range(4)
            for column in range(4)
        ],
        dim=1,
    )
    assert torch.equal(model.unpatchify(patches), image)


@given(order=st.permutations(range(4)), size=st.integers(1, 4))
@settings(max_examples=15, deadline=None)
@torch.no_grad()
def test_an_image_does_not_see_its_batch(build, draw, order: list[int], size: int) -> None:
    for kind in (DiT, DyDiT):
        model = build(kind)
        x, t, y = draw(model, 4)
        chosen = order[:size]
        torch.testing.assert_close(model(x[chosen], t[chosen], y[chosen]), model(x, t, y)[chosen], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_timestep_and_label_both_condition_the_output(build, draw) -> None:
    model = build(DiT)
    x, t, y = draw(model)
    output = model(x, t, y)
    assert (model(x, (t + 500) % 1000, y) - output).abs().amax() > 1e-2
    assert (model(x, t, (y + 1) % NULL) - output).abs().amax() > 1e-2


@torch.no_grad()
def test_attention_ignores_the_order_of_tokens_and_the_position_table_restores_it(build, draw) -> None:
    model = build(DiT)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    tokens, _, c = model.embed(*draw(model))
    block = model.blocks[0]
    torch.testing.assert_close(block(tokens[:, order], c), block(tokens, c)[:, order], rtol=1e-5, atol=1e-5)
    x, t, y = draw(model)
    assert (model(x.flip(-1), t, y).flip(-1) - model(x, t, y)).abs().amax() > 1e-2


def test_a_table_without_label_dropout_has_no_null_label() -> None:
    embedder = LabelEmbedder(NULL, 4, 0.0)
    assert len(embedder.embedding_table.weight) == NULL
    y = torch.arange(NULL)
    assert torch.equal(embedder(y), embedder.embedding_table.weight)


@pytest.mark.parametrize(("dropout", "expected"), [(0.1, 0.1), (0.5, 0.5), (1.0, 1.0)])
def test_training_replaces_a_share_of_labels_by_the_null_label(dropout: float, expected: float) -> None:
    embedder = LabelEmbedder(NULL, 4, dropout)
    torch.manual_seed(0)
    out = embedder(torch.zeros(4000, dtype=torch.int64))
    dropped = (out == embedder.embedding_table.weight[NULL]).all(1)
    kept = (out == embedder.embedding_table.weight[0]).all(1)
    assert torch.equal(dropped, ~kept)
    assert dropped.float().mean().item() == pytest.approx(expected, abs=0.03 if 0 < dropout < 1 else 0)


def test_evaluation_keeps_every_label() -> None:
    embedder = LabelEmbedder(NULL, 4, 1.0).eval()
    y = torch.arange(NULL + 1)
    assert torch.equal(embedder(y), embedder.embedding_table.weight)


@torch.no_grad()
def test_open_masks_change_nothing_and_closed_masks_leave_the_bias() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 16)
    for layer, last in ((attention := Attention(16, 4), attention.proj), (mlp := Mlp(16, 64), mlp.fc2)):
        assert torch.equal(layer(x, torch.ones(2, 4)), layer(x))
        closed = layer(x, torch.zeros(2, 4))
        torch.testing.assert_close(closed, last.bias.expand_as(closed), rtol=0, atol=0)


@torch.no_grad()
def test_attention_is_softmax_over_every_token_in_each_head() -> None:
    torch.manual_seed(0)
    layer, x = Attention(16, 4), torch.randn(2, 5, 16)
    q, k, v = (part.unflatten(-1, (4, 4)) for part in layer.qkv(x).split(16, dim=-1))
    weights = (torch.einsum("nqhd,nkhd->nhqk", q, k) / 4**0.5).softmax(-1)
    expected = layer.proj(torch.einsum("nhqk,nkhd->nqhd", weights, v).flatten(2))
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)
