from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.data import image_set
from bench.quality.features import inception
from bench.quality.features.extractors import Weights
from bench.quality.measure import measure_quality
from dydit.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = ["logits_unbiased", "spatial", "2048"]


@pytest.fixture(scope="module")
def weights(inception_weights: Weights) -> Path:
    return inception_weights.path


def network(path: Path, layers: list[str]) -> nn.Module:
    built = inception.network_class()("any name", layers, feature_extractor_weights_path=str(path))
    return built.eval()


def pictures(count: int, size: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


@torch.inference_mode()
def test_one_forward_gives_what_torch_fidelity_gives_and_the_spatial_layer(weights: Path) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    original = FeatureExtractorInceptionV3(
        "original", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights)
    )
    maps: list[Tensor] = []
    original.Mixed_6d.branch1x1.register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    images = pictures(2)
    pool, logits = original(images)
    unbiased, spatial, features = network(weights, LAYERS)(images)
    assert spatial.shape == (2, 2023) and maps[0].shape == (2, 192, 17, 17)
    last = maps[0].numpy().transpose(0, 2, 3, 1)[..., :7]  # TensorFlow's NHWC
    pairs = (unbiased, logits), (features, pool), (spatial, torch.from_numpy(last.reshape(2, -1)))
    for ours, theirs in pairs:  # batch norms are folded into the convolutions
        assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()
    torch.testing.assert_close(spatial[1, (5 * 17 + 11) * 7 + 3], maps[0][1, 3, 5, 11], rtol=1e-4, atol=1e-4)
    alone = network(weights, ["spatial"])
    later: list[object] = []
    alone.inception.Mixed_7a.register_forward_hook(lambda *_: later.append(1))  # type: ignore[union-attr]
    (only,) = alone(images)
    assert torch.equal(only, spatial) and not later  # nothing behind it is computed
    assert spatial.std() > 0 and unbiased.std(dim=0).min() > 0  # weights that do not tell images apart show nothing


@torch.inference_mode()
@pytest.mark.parametrize("by", ["oneDNN", "torch"])
def test_a_folded_convolution_is_convolution_norm_and_relu_one_after_another(
    by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With statistics far from those of a new norm, which are 0 and 1, where a mistake would not show."""
    from torch_fidelity.feature_extractor_inceptionv3 import BasicConv2d

    if by == "torch":
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    generator = torch.Generator().manual_seed(0)
    block = BasicConv2d(3, 8, kernel_size=(1, 3), stride=2, padding=(0, 1))
    for value in (block.bn.weight, block.bn.bias, block.bn.running_mean, block.bn.running_var):
        value.copy_(torch.rand(8, generator=generator) * 3 + 0.1)
    network = nn.Sequential(block).eval()
    x = torch.randn(2, 3, 9, 9, generator=generator)
    expected = network(x)
    inception.fold_batch_norms(network)
    assert isinstance(network[0], inception.FoldedConvolution) and not network[0].convolution.weight.requires_grad
    assert (expected == 0).any() and (expected > 0).any()
    torch.testing.assert_close(network(x), expected, rtol=1e-5, atol=1e-6)


def test_no_batch_norm_is_left_and_the_layout_is_that_of_the_kernels(weights: Path) -> None:
    modules = list(network(weights, ["2048"]).modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in modules)
    kernels = [module.weight for module in modules if isinstance(module, nn.Conv2d)]
    assert len(kernels) == 94
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)


@pytest.mark.parametrize("size", [(1, 1), (32, 32), (256, 256), (299, 299), (300, 17), (512, 640)])
def test_pictures_are_resized_as_tensorflow_1_does(size: tuple[int, int]) -> None:
    """torch-fidelity's function is checked against TensorFlow by its authors."""
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8, generator=generator)
    expected = interpolate_bilinear_2d_like_tensorflow1x(images.float(), size=(299, 299), align_corners=False)
    torch.testing.assert_close(inception.scaled(images), (expected - 128) / 128, rtol=0, atol=2e-4)


def test_random_weights_repeat_and_leave_the_global_generator_alone(weights: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    again = tmp_path / "again.pth"
    inception.write_random_weights(again)
    assert torch.equal(before, torch.get_rng_state())
    first, second = (torch.load(path, weights_only=True) for path in (weights, again))
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    inception.check_weights(again)
    assert [path.name for path in tmp_path.iterdir()] == ["again.pth"]


def test_the_cache_is_torch_hubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert inception.cached_weights() == tmp_path / "hub" / "checkpoints" / inception.FILE_NAME
    assert inception.FILE_NAME.endswith(f"-{inception.SHA256[:8]}.pth") and len(inception.SHA256) == 64


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.target,)


def test_broken_weights_are_refused_and_run_nothing(tmp_path: Path) -> None:
    path, trace = tmp_path / "inception.pth", tmp_path / "executed"
    torch.save({"fc.weight": Payload(trace)}, path)
    with pytest.raises(InputError, match="not a readable file of tensors"):
        inception.check_weights(path)
    path.write_bytes(pickle.dumps(Payload(trace)))
    with pytest.raises(InputError, match="not a readable file of tensors") as caught:
        inception.check_weights(path)
    assert not trace.exists() and str(path) in str(caught.value) and inception.URL in str(caught.value)
    torch.save({"fc.weight": torch.zeros(1000, 2048)}, path)
    with pytest.raises(InputError, match=r"fc\.weight \(1000, 2048\), expected \(1008, 2048\)"):
        inception.check_weights(path)
    torch.save({"fc.weight": torch.full((1008, 2048), torch.inf)}, path)
    with pytest.raises(InputError, match=r"infinite values in fc\.weight"):
        inception.check_weights(path)


def test_truncated_weights_are_refused(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "inception.pth"
    path.write_bytes(weights.read_bytes()[:100_000])
    with pytest.raises(InputError, match="not a readable file of tensors"):
        inception.check_weights(path)


def test_quality_is_what_torch_fidelity_measures(
    inception_weights: Weights, by_torch_fidelity: Callable[..., dict[str, float]]
) -> None:
    """With random weights, against its own InceptionV3; FID is left out, 2048 features take seconds."""
    generator = torch.Generator().manual_seed(0)
    made, true = (
        image_set.of_tensor(torch.randint(low, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator), "made")
        for low, count in ((0, 12), (20, 5))
    )
    metrics = ["IS", "precision", "recall", "KID"]
    ours = measure_quality(made, true, extractor="inception-v3-compat", weights=inception_weights, metrics=metrics)
    theirs = by_torch_fidelity(
        made, true, "inception-v3-compat", inception_weights.path, isc_splits=6, kid_subset_size=5
    )
    # KID is a small difference of kernels around 1, of float32 features: its error is absolute.
    for metric, key, bound in (
        ("precision", "precision", 0.0),
        ("recall", "recall", 0.0),
        ("KID", "kernel_inception_distance_mean", 1e-6),
    ):
        np.testing.assert_allclose(ours[metric].value, theirs[key], rtol=1e-4, atol=bound, err_msg=metric)
        assert ours[metric].value != 0.0
    # Random weights tell little apart: what matters of the score is how far it is above 1.
    np.testing.assert_allclose(ours["IS"].value - 1, theirs["inception_score_mean"] - 1, rtol=1e-2)
    assert ours.rows()[0]["metric"] == "IS[inception-v3-compat]" and ours["IS"].low is None
