"""Latents encoded once: equal to the autoencoder's own, sampled anew, resumable, and trained on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bench import cli
from bench.generation.decoding import LATENT_SCALE
from bench.records import read_json, write_json
from bench.training import finetune, latents
from bench.training.job import FinetuneOptions
from dydit import DiT, DyDiT, InputError, checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

COUNT = 6


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory, save_vae: Callable[..., Path]) -> Path:
    """A small random autoencoder that makes latents of an eighth of the side."""
    return save_vae(tmp_path_factory.mktemp("vae"), levels=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of 32x32 pixels in three classes."""
    path: Path = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for index in range(COUNT):
        file = path / f"class{index // 2}" / f"{index}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file)
    return path


def encode(folder: Path, vae: Path, out: Path, **others: Any) -> latents.Latents:
    values = {"data": str(folder), "out": out, "resolution": 32, "vae": str(vae), "unit": 4, **others}
    return latents.encode_latents(latents.LatentsOptions(**values))


@pytest.fixture(scope="module")
def made(folder: Path, vae: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("latents")
    encode(folder, vae, out)
    return out


def test_latents_are_those_of_the_autoencoder_plain_and_mirrored(made: Path, folder: Path, vae: Path) -> None:
    from diffusers import AutoencoderKL

    module = AutoencoderKL.from_pretrained(vae, low_cpu_mem_usage=False)
    stored = np.concatenate([np.load(made / name) for name in ("000000.npy", "000001.npy")])
    assert stored.shape == (COUNT, 4, 4, 4, 4)
    for index, path in enumerate(sorted(folder.rglob("*.png"))):
        x = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None] / 127.5 - 1
        for turned, given in enumerate((x, x.flip(-1))):
            with torch.no_grad():
                found = module.encode(given).latent_dist
            mean, deviation = stored[index, 2 * turned : 2 * turned + 2]
            np.testing.assert_allclose(mean, found.mean[0].numpy(), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(deviation, found.std[0].numpy(), rtol=1e-4, atol=1e-6)


def test_a_batch_samples_around_the_mean_with_the_global_generator(made: Path) -> None:
    opened = latents.open_latents(made)
    rows, mirror = torch.tensor([5, 0, 3]), torch.tensor([True, False, False])
    torch.manual_seed(1)
    x, y = opened.batch(rows, mirror)
    torch.manual_seed(1)
    noise = torch.randn(3, 4, 4, 4)
    stored = np.concatenate([np.load(made / name) for name in ("000000.npy", "000001.npy")])
    picked = [stored[5, 2:], stored[0, :2], stored[3, :2]]
    mean, deviation = torch.from_numpy(np.stack(picked)).unbind(1)
    assert torch.equal(x, (mean + deviation * noise) * LATENT_SCALE)
    assert y.tolist() == [2, 0, 1] and len(opened) == COUNT


def test_a_broken_off_encoding_goes_on_and_mends_what_is_damaged(
    made: Path, folder: Path, vae: Path, tmp_path: Path
) -> None:
    whole = latents.open_latents(made)
    encode(folder, vae, tmp_path)
    kept = (tmp_path / "000000.npy").stat().st_mtime_ns
    for name in ("latents.json", "labels.npy"):
        (tmp_path / name).unlink()
    half = tmp_path / ".000001.0a1b2c3d.partial.npy"
    half.touch()
    damaged = tmp_path / "000001.npy"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    assert encode(folder, vae, tmp_path).sha256 == whole.sha256
    assert not half.exists()
    assert (tmp_path / "000000.npy").stat().st_mtime_ns == kept
    assert damaged.read_bytes() == (made / "000001.npy").read_bytes()


def test_another_set_is_not_mixed_in(made: Path, folder: Path, vae: Path) -> None:
    with pytest.raises(InputError, match="holds a run with unit = 4, this one has 3"):
        encode(folder, vae, made, unit=3)


def test_a_file_that_is_cut_short_or_has_changed_is_refused(folder: Path, vae: Path, tmp_path: Path) -> None:
    encode(folder, vae, tmp_path)
    for name in ("000001.npy", "labels.npy", "latents.json"):
        path = tmp_path / name
        content = path.read_bytes()
        for damaged in (content[:-7], content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]):
            path.write_bytes(damaged)
            with pytest.raises(InputError, match=r"; run `python -m bench latents` again"):
                latents.open_latents(tmp_path)
        path.write_bytes(content)
    (tmp_path / "000000.npy").unlink()
    with pytest.raises(InputError, match="no whole set of latents"):
        latents.open_latents(tmp_path)


@pytest.mark.parametrize(
    ("others", "message"),
    [({"resolution": 20}, "multiples of 8"), ({"resolution": 64}, "smaller than the crop"), ({"unit": 0}, "--unit 0")],
)
def test_what_cannot_be_encoded_is_refused(
    folder: Path, vae: Path, tmp_path: Path, others: dict[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        encode(folder, vae, tmp_path, **others)


def static(path: Path, **changes: Any) -> str:
    config = {"input_size": 4, "patch_size": 2, "in_channels": 4, "hidden_size": 24, "depth": 1, "num_heads": 2}
    checkpoint.write(path, DiT(**{**config, "num_classes": 3, **changes}))
    return str(path)


def options(tmp_path: Path, data: Path, **changes: Any) -> FinetuneOptions:
    source = static(tmp_path / "dit.safetensors", **changes)
    recipe = {"steps": 3, "batch_size": 4, "target": 0.5, "flip": True}
    return FinetuneOptions(source=source, data=str(data), out=tmp_path, **recipe)


def test_a_network_is_fine_tuned_on_latents(made: Path, tmp_path: Path) -> None:
    path = finetune.finetune(options(tmp_path, made))
    assert path is not None
    model, found = checkpoint.load_model(path)
    assert type(model) is DyDiT and found.record["data_sha256"] == latents.open_latents(made).sha256


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_size": 8}, r"latents \(4, 4, 4\), the network takes \(4, 8, 8\)"),
        ({"num_classes": 2}, "labels 0 to 2, the network has 2 classes; give --new-classes 3"),
    ],
)
def test_latents_that_do_not_fit_the_network_are_refused(
    made: Path, tmp_path: Path, changes: dict[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        finetune.finetune(options(tmp_path, made, **changes))


def test_the_names_of_classes_reach_what_is_trained(made: Path, tmp_path: Path) -> None:
    path = finetune.finetune(options(tmp_path, made))
    assert path is not None
    classes = json.loads(checkpoint.read(path).record["classes"])
    assert classes == json.loads((made / "latents.json").read_text())["classes"] == latents.open_latents(made).classes
    assert all(row["name"] for row in classes) and sum(row["images"] for row in classes) == COUNT


@pytest.mark.parametrize("classes", [None, [], 3, [{"label": 0}], [{"label": 0, "name": 5, "images": 1}]])
def test_latents_of_an_earlier_version_are_read_and_damaged_classes_are_not(
    made: Path, tmp_path: Path, classes: Any
) -> None:
    shutil.copytree(made, tmp_path / "set")
    content = read_json(made / "latents.json", "")
    if classes is None:
        del content["classes"]
    else:
        content["classes"] = classes
    write_json(content, tmp_path / "set" / "latents.json")
    if classes:
        with pytest.raises(InputError, match="no whole set of latents"):
            latents.open_latents(tmp_path / "set")
    else:
        assert [row["name"] for row in latents.open_latents(tmp_path / "set").classes] == [None] * 3


def test_a_network_of_latents_asks_for_them(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="bench latents"):
        finetune.finetune(options(tmp_path, folder))


def test_the_command_says_how_to_go_on(
    folder: Path, vae: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["latents", "--data", str(folder), "--vae", str(vae), "--resolution", "32", "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as exit_:
        cli.main(given)
    assert exit_.value.code == 0
    assert "bench finetune --data" in capsys.readouterr().out
    assert json.loads((tmp_path / "latents.json").read_text())["count"] == COUNT
