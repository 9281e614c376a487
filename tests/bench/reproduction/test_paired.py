"""The ratio of two FIDs over the same labels and noise: shared luck cancels, and order is what pairs the images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.data.image_set import of_tensor
from bench.data.sets import digits
from bench.quality.measure import evaluate
from bench.reproduction import paired
from dydit import InputError

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_ratio_is_that_of_the_two_fids_and_pairs_are_resampled_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paired, "RESAMPLES", 10)
    real = digits.load_digits().images
    noise = torch.from_numpy(np.random.default_rng(0).integers(-100, 100, (120, 1, 8, 8)))
    one = (real[:120] + noise // 4).clamp(0, 255).to(torch.uint8)
    other = (real[:120] + noise).clamp(0, 255).to(torch.uint8)
    sets = (of_tensor(one, "one"), of_tensor(other, "other"), of_tensor(real, "real"))
    ratio, low, high = paired.paired_fid_ratio(*sets, "digits-cnn")
    wanted = evaluate(one, real)["FID"].value / evaluate(other, real)["FID"].value
    assert ratio == pytest.approx(wanted, rel=1e-6) and low <= ratio <= high < 1
    assert paired.paired_fid_ratio(sets[0], sets[0], sets[2], "digits-cnn") == pytest.approx((1.0, 1.0, 1.0))
    with pytest.raises(InputError, match="120 and 119 images"):
        paired.paired_fid_ratio(sets[0], of_tensor(other[1:], "fewer"), sets[2], "digits-cnn")
