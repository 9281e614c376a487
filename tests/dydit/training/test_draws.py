"""The rows and timesteps that training draws."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dydit.training.draws import Draws, shuffled_rows, stratified_timesteps
from dydit.training.recipe import Recipe


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


@given(rows=st.integers(1, 40), batch=st.integers(1, 100), seed=st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_every_epoch_holds_each_row_once_whatever_the_batch_size(rows: int, batch: int, seed: int) -> None:
    steps = -(-3 * rows // batch)
    drawn = torch.cat([shuffled_rows(seed, step * batch, batch, rows) for step in range(steps)])
    for epoch in drawn[: 3 * rows].split(rows):
        assert epoch.sort().values.tolist() == list(range(rows))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    first, second, other = (shuffled_rows(seed, start, 50, 50) for seed, start in ((0, 0), (0, 50), (1, 0)))
    assert not torch.equal(first, second) and not torch.equal(first, other)
    assert not torch.equal(first, torch.arange(50))


def test_a_step_draws_the_rows_that_follow_those_of_the_step_before() -> None:
    recipe = Recipe(steps=5, batch_size=8, seed=3)
    drawn = [Draws.of_step(recipe, step, rows=20, shape=(1, 2, 2), timesteps=1000).rows for step in range(5)]
    assert torch.equal(torch.cat(drawn), shuffled_rows(3, 0, 40, 20))
