from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dydit import DiT
from dydit.baselines import MergingBlocks, apply_method
from dydit.baselines.merging import Matching


def by_hand(tokens: Tensor, count: int) -> Tensor:
    """The merging of one image (T, C) as a matrix (T - r, T), one pair after another."""
    side = int(len(tokens) ** 0.5)
    cells = [(row, column) for row in range(side) for column in range(side)]
    destinations = [i for i, (row, column) in enumerate(cells) if row % 2 == 0 and column % 2 == 0]
    sources = [i for i in range(len(tokens)) if i not in destinations]
    pairs = []
    for source in sources:
        alike = [torch.cosine_similarity(tokens[source], tokens[d], dim=0).item() for d in destinations]
        pairs.append((max(alike), source, destinations[alike.index(max(alike))]))
    merged = {source: into for _, source, into in sorted(pairs, key=lambda pair: -pair[0])[:count]}
    order = [source for _, source, _ in sorted(pairs, key=lambda pair: -pair[0]) if source not in merged]
    rows = []
    for token in (*order, *destinations):
        group = [token, *(source for source, into in merged.items() if into == token)]
        row = torch.zeros(len(tokens))
        row[group] = 1 / len(group)
        rows.append(row)
    return torch.stack(rows)


@pytest.mark.parametrize("count", [0, 1, 5, 12])
def test_tokens_merge_as_they_do_by_hand(count: int) -> None:
    tokens = torch.randn(2, 16, 6, generator=torch.Generator().manual_seed(count))
    values = torch.randn(2, 16, 6, generator=torch.Generator().manual_seed(99))
    matching = Matching(tokens, count)
    merged = matching.merge(values)
    assert merged.shape == (2, 16 - count, 6)
    for image in range(2):
        matrix = by_hand(tokens[image], count)
        torch.testing.assert_close(merged[image], matrix @ values[image])
        back = (matrix > 0).float().T @ merged[image]
        torch.testing.assert_close(matching.unmerge(merged)[image], back)


def test_equal_tokens_lose_nothing_by_merging(build, sampled) -> None:
    model = build(DiT)
    with torch.no_grad():
        model.pos_embed.zero_()
        model.x_embedder.proj.weight.zero_()  # every token of an image is the same
    torch.testing.assert_close(sampled(apply_method(model, "tome:0.5")), sampled(model), rtol=1e-3, atol=1e-3)


def test_a_share_is_rounded_down_to_whole_tokens(build) -> None:
    config = build(DiT).config  # 16 tokens
    assert [MergingBlocks(ratio).merged(config) for ratio in (0.0, 0.05, 0.2, 0.5, 0.75)] == [0, 0, 3, 8, 12]


def test_a_ratio_that_merges_too_many_is_refused(build, refusal) -> None:
    with refusal("merges 14 of 16 tokens", "at most 12", "up to 0.75"):
        apply_method(build(DiT), "tome:0.9")
    for text in ("tome:1", "tome:-0.1", "tome:nan"):
        with refusal("share of tokens"):
            apply_method(build(DiT), text)
