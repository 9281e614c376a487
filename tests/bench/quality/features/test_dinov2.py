"""DINOv2 from a file computes what the published layout says, and leaves out the metrics that it has no layer for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.data import image_set
from bench.quality.features import dinov2, extraction, extractors
from bench.quality.features.dinov2 import DinoKind
from bench.quality.measure import measure_quality
from bench.quality.references.build import build_reference
from bench.records import file_sha256
from dydit.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = DinoKind("tiny", "dinov2_tiny_pretrain.pth", 32, 2, 2, "")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("dino") / "tiny.pth"
    dinov2.write_random_weights(TINY, path)
    return path


def pictures(count: int, seed: int = 0) -> Tensor:
    """Noise of growing contrast, so that the images differ as wholes."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand((count, 3, 20, 20), generator=generator)
    return (noise * torch.linspace(40, 255, count)[:, None, None, None]).to(torch.uint8)


def published_forward(state: dict[str, Tensor], x: Tensor, heads: int) -> Tensor:
    """The class token of a transformer in the published layout, written out."""
    linear = lambda x, name: F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])  # noqa: E731
    norm = lambda x, name: F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)  # noqa: E731
    patches = F.conv2d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=14)
    x = torch.cat([state["cls_token"].expand(len(x), -1, -1), patches.flatten(2).transpose(1, 2)], 1)
    x = x + dinov2.resize_positions(state["pos_embed"])
    for number in range(2):
        block = f"blocks.{number}"
        qkv = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").unflatten(-1, (3, heads, -1))  # type: ignore[no-untyped-call]
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = ((q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + state[f"{block}.ls1.gamma"] * linear(attended, f"{block}.attn.proj")
        hidden = F.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
        x = x + state[f"{block}.ls2.gamma"] * linear(hidden, f"{block}.mlp.fc2")
    return norm(x, "norm")[:, 0]


@torch.inference_mode()
def test_features_are_those_of_the_published_layout(weights: Path) -> None:
    images = pictures(3)
    network = dinov2.network_class(TINY)("any", ["dinov2"], feature_extractor_weights_path=str(weights))
    (features,) = network(images)
    # Twenty pixels to 224 with aligned corners off and no shift of half a pixel, as TensorFlow 1 does.
    places = torch.arange(224) * (20 / 224)
    low, share = places.long(), places - places.long()
    high = (low + 1).clamp(max=19)
    rows = torch.lerp(images[..., low, :].float(), images[..., high, :].float(), share[:, None])
    large = torch.lerp(rows[..., low], rows[..., high], share)
    mean, std = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = published_forward(torch.load(weights, weights_only=True), (large / 255 - mean) / std, heads=2)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)
    assert features.std(0).min() > 100 * (features - expected).abs().max()  # the images differ by far more


def test_positions_are_resized_with_the_authors_offset() -> None:
    ramp = torch.arange(37.0).repeat_interleave(37)[None, :, None]
    resized = dinov2.resize_positions(torch.cat([torch.tensor([[[7.0]]]), ramp], 1))
    assert resized.shape == (1, 257, 1) and resized[0, 0, 0] == 7.0
    rows = resized[0, 1:, 0].reshape(16, 16)
    places = (torch.arange(16) + 0.5) * 37 / 16.1 - 0.5
    # The cubic kernel bends a ramp by 0.05; without the offset the last rows would be 0.2 off.
    torch.testing.assert_close(rows[2:-2], places[2:-2, None].expand(12, 16), rtol=0, atol=0.06)


def test_other_files_are_refused(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    state = torch.load(weights, weights_only=True)
    url = "https://dl.fbaipublicfiles.com/dinov2/dinov2_tiny/dinov2_tiny_pretrain.pth"
    for changed, message in (
        ({"blocks.0.ls1.gamma": None}, "another network"),
        ({"register_tokens": torch.zeros(1, 4, 32)}, "1 more tensors, register_tokens among them"),
        ({"norm.weight": torch.zeros(33)}, "another network"),
        ({"pos_embed": torch.zeros(1, 257, 32)}, "another network"),
        ({"norm.bias": torch.full((32,), torch.nan)}, r"NaN or infinite values in norm\.bias"),
        ({"norm.bias": 3}, "tensors by name"),
    ):
        torch.save({key: value for key, value in (state | changed).items() if value is not None}, path)
        with pytest.raises(InputError, match=message):
            dinov2.load_network(TINY, path)
    path.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(InputError, match=f"readable file of tensors alone; download {url}"):
        dinov2.load_network(TINY, path)


def test_it_measures_the_metrics_that_it_has_a_layer_for(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch_fidelity

    with pytest.raises(InputError, match=r"expected b938bf1b.*; download https://dl\.fbaipublicfiles\.com/dinov2/"):
        extractors.extractor("dinov2-vit-s-14").weights(weights)
    extraction.register()  # the others, once for all
    spec = extractors._of_dinov2(TINY)
    monkeypatch.setitem(extractors.EXTRACTORS, spec.name, spec)
    torch_fidelity.register_feature_extractor(spec.registered, spec.network())
    checked = spec.weights(weights, file_sha256(weights))
    made, true = (image_set.of_tensor(pictures(4, seed), f"seed {seed}") for seed in (0, 1))
    reference = build_reference(true, spec.name, checked, name="true", record={})
    assert reference.spatial is None and reference.record["layers"] == ["dinov2"] and reference.misfit(spec) == ""
    measured = measure_quality(made, reference, extractor=spec.name, weights=checked, resamples=0)
    names = [row["metric"] for row in measured.rows()]
    assert names == [f"{name}[tiny]" for name in ("FID", "precision", "recall", "KID", "KID_std")]
    assert measured["FID"].value > 0
    for metric in ("sFID", "IS"):
        with pytest.raises(InputError, match=f"has no layer for {metric}; choose from FID, precision, recall, KID"):
            measure_quality(made, true, extractor=spec.name, weights=checked, metrics=["FID", metric])
