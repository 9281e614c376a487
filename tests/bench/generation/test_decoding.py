"""Bytes from pixels and from latents, with a tiny random autoencoder in diffusers' layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.generation import decoding
from bench.generation.decoding import LATENT_SCALE, LatentDecoder, open_decoder
from dydit.config import DiTConfig
from dydit.errors import InputError


def config(channels: int, side: int = 4) -> DiTConfig:
    return DiTConfig(
        input_size=side, patch_size=2, in_channels=channels, hidden_size=16, depth=1, num_heads=2, num_classes=3
    )


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory, save_vae: Callable[..., Path]) -> Path:
    return save_vae(tmp_path_factory.mktemp("vae"))


def refused(pattern: str, *arguments: Any) -> str:
    with pytest.raises(InputError, match=pattern) as caught:
        open_decoder(*arguments)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_become_bytes_by_the_published_protocol(channels: int) -> None:
    decoder = open_decoder(config(channels), None)
    assert decoder.shape == (4, 4, channels)
    x = torch.linspace(-1.5, 1.5, 2 * channels * 16).reshape(2, channels, 4, 4)
    expected = (127.5 * x + 128).clamp(0, 255).floor()
    assert torch.equal(decoder(x), expected.to(torch.uint8))
    assert torch.equal(decoder(x.double()), decoder(x))
    assert decoder.weights() == {}


def test_latents_go_through_the_autoencoder_unscaled(vae: Path) -> None:
    from diffusers import AutoencoderKL

    decoder = open_decoder(config(4), str(vae))
    assert decoder.shape == (8, 8, 3)
    x = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(1)) * LATENT_SCALE
    with torch.no_grad():
        pixels = AutoencoderKL.from_pretrained(vae, low_cpu_mem_usage=False).decode(x / LATENT_SCALE).sample
    assert pixels.std() > 0.01
    assert torch.equal(decoder(x), (127.5 * pixels + 128).clamp(0, 255).to(torch.uint8))
    assert not decoder(x).requires_grad
    assert set(decoder.weights()) > {"decoder.conv_out.weight", "post_quant_conv.weight"}


def test_decoding_holds_few_images_at_once(vae: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = open_decoder(config(4), str(vae))
    assert isinstance(decoder, LatentDecoder)
    x = torch.randn(11, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    whole = decoder(x)
    batches: list[int] = []
    decode = decoder.vae.decode
    monkeypatch.setattr(decoder.vae, "decode", lambda z: batches.append(len(z)) or decode(z))
    monkeypatch.setattr(decoding, "DECODE_BATCH", 3)
    parts = decoder(x)
    assert batches == [3, 3, 3, 2]
    assert (parts.int() - whole.int()).abs().max() <= 1


def test_a_half_precision_file_is_decoded_in_float32(vae: Path, tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    AutoencoderKL.from_pretrained(vae, low_cpu_mem_usage=False).half().save_pretrained(tmp_path)
    decoder = open_decoder(config(4), str(tmp_path))
    assert {tensor.dtype for tensor in decoder.weights().values()} == {torch.float32}


def test_a_model_and_a_decoder_that_do_not_fit_are_refused(
    vae: Path, tmp_path: Path, save_vae: Callable[..., Path]
) -> None:
    refused("pixels.*leave it out", config(3), str(vae))
    refused("2 channels", config(2), None)
    sixteen = save_vae(tmp_path / "sixteen", latent_channels=16)
    assert "sd-vae-ft-ema" in refused(r"\(16, 3, 0\.18215\)", config(4), str(sixteen))
    other = save_vae(tmp_path / "scale", scaling_factor=0.13025)
    refused(r"0\.13025.*0\.18215", config(4), str(other))


def test_a_missing_or_damaged_directory_is_one_line(
    vae: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], save_vae: Callable[..., Path]
) -> None:
    assert "sd-vae-ft-mse" in refused("no such directory", config(4), str(tmp_path / "nowhere"))
    empty = tmp_path / "empty"
    empty.mkdir()
    refused("config.json", config(4), str(empty))
    weights = next(vae.glob("*.safetensors")).read_bytes()
    broken = save_vae(tmp_path / "broken")
    next(broken.glob("*.safetensors")).write_bytes(weights[: len(weights) // 2])
    refused("no autoencoder", config(4), str(broken))
    next(broken.glob("*.safetensors")).unlink()
    refused("no autoencoder", config(4), str(broken))
    assert capfd.readouterr() == ("", "")


def test_weights_that_are_missing_are_not_left_random(vae: Path, tmp_path: Path, save_vae: Callable[..., Path]) -> None:
    from safetensors.torch import load_file, save_file

    incomplete = save_vae(tmp_path / "incomplete")
    path = next(incomplete.glob("*.safetensors"))
    state = load_file(path)
    del state["decoder.conv_out.weight"]
    save_file(state, path, {"format": "pt"})
    refused("1 weights are missing, such as decoder.conv_out.weight", config(4), str(incomplete))


@pytest.mark.parametrize("name", [None, "sd-vae-ft-mse"])
def test_offline_names_the_repository_and_the_remedy(monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    from diffusers import AutoencoderKL

    def offline(*_: object, **__: object) -> None:
        raise OSError("We couldn't connect to the hub\nand more lines")

    monkeypatch.setattr(AutoencoderKL, "from_pretrained", offline)
    message = refused("couldn't connect", config(4), name)
    assert decoding.VAES[name or "sd-vae-ft-ema"] in message and "--vae PATH" in message


def test_the_published_names_have_the_scale_of_the_models(vae: Path) -> None:
    """The layout that `save_pretrained` writes is the hub's, so its own default scale is that of Stable Diffusion."""
    assert json.loads((vae / "config.json").read_text())["scaling_factor"] == LATENT_SCALE
