"""The timesteps that training draws."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dydit.training.draws import stratified_timesteps


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
