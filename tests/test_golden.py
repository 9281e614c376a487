"""Parity with the published implementations, on every golden file of the directory in DYDIT_GOLDEN."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.quality.metrics.frechet import fid
from bench.quality.metrics.inception_score import inception_score
from bench.quality.metrics.precision_recall import precision_recall
from dydit import DiT, DyDiT, Routing, model_config
from dydit.diffusion import Diffusion, Model
from dydit.flops import flops_loss, flops_ratio
from dydit.inference.engine import Engine
from dydit.inference.width_plan import WidthPlan
from dydit.sampling import denoise, guided

DIRECTORY = Path(os.environ.get("DYDIT_GOLDEN", Path(__file__).parent / "golden"))
FILES = sorted(DIRECTORY.glob("*.npz"))


class Golden:
    """Arrays of one file as tensors, its state dict and its meta record."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as file:
            self.meta: dict[str, Any] = json.loads(str(file["meta"]))
            arrays = {key: torch.from_numpy(file[key]) for key in file.files if key != "meta"}
        self.state = {key.removeprefix("sd."): value for key, value in arrays.items() if key.startswith("sd.")}
        self.arrays = arrays

    def __getitem__(self, key: str) -> Tensor:
        return self.arrays[key]

    def build(self, kind: type[DiT]) -> Any:
        model = kind(**self.meta["config"])
        model.load_state_dict(self.state, strict=True)
        return model.eval()

    def guided(self, model: Model, t: Tensor) -> Tensor:
        x, null = self["x"], torch.full_like(self["y"], self.meta["config"]["num_classes"])
        scale = self.meta["cfg_scale"]
        return guided(model, torch.cat([x, x]), torch.cat([t, t]), torch.cat([self["y"], null]), scale)


def referenced_model(golden: Golden, directory: Path) -> Any:
    other = Golden(directory / golden.meta["model"])
    return other.build(DyDiT if other.meta["kind"] == "dydit" else DiT)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual.to(expected.dtype), expected, rtol=1e-4, atol=1e-4)


def same_mask(actual: Tensor, expected: Tensor) -> None:
    assert torch.equal(actual.bool(), expected.bool())


def check_dit(golden: Golden) -> None:
    model = golden.build(DiT)
    close(model(golden["x"], golden["t"], golden["y"]), golden["out"])
    close(golden.guided(model, golden["t"]), golden["out_cfg"])


def check_dydit(golden: Golden) -> None:
    model = golden.build(DyDiT)
    x, y = golden["x"], golden["y"]
    out, routing = model.route(x, golden["t"], y)
    close(out, golden["out"])
    for mask, name in ((routing.heads, "head"), (routing.channels, "channel"), (routing.tokens, "token")):
        same_mask(mask, golden[f"{name}_mask"])
    close(model.complete(x, golden["t"], y), golden["out_complete"])
    out, routing = model.route(x, golden["same_t"], y)
    close(out, golden["same_t_out"])
    same_mask(routing.tokens, golden["same_t_token_mask"])
    close(golden.guided(model, golden["same_t"]), golden["same_t_out_cfg"])
    engine = Engine(model, WidthPlan.from_routers(model, golden["same_t"].tolist()))
    close(engine(x, golden["same_t"], y), golden["same_t_out"])
    close(golden.guided(engine, golden["same_t"]), golden["same_t_out_cfg"])


def check_sampler(golden: Golden) -> None:
    sampler = golden.meta["sampler"]
    diffusion = Diffusion.linear().respaced(golden.meta["steps"], sampler)
    torch.testing.assert_close(diffusion.betas, golden["betas"], rtol=1e-10, atol=0)
    assert torch.equal(diffusion.timestep_map, golden["timestep_map"])
    states = [golden["x_T"]]
    denoise(
        referenced_model(golden, DIRECTORY),
        diffusion,
        golden["x_T"],
        golden["y"],
        noise=lambda step: golden["noises"][step],
        sampler=sampler,
        on_step=states.append,
    )
    # The states of a random network grow to hundreds, and carry every step's rounding on: 1e-4 of their size.
    for state, expected in zip(states, golden["trajectory"], strict=True):
        scale = max(1.0, expected.square().mean().sqrt().item())
        torch.testing.assert_close(state, expected, rtol=1e-4, atol=1e-4 * scale)


def check_training_loss(golden: Golden) -> None:
    diffusion = Diffusion.linear(len(golden["betas"]))
    torch.testing.assert_close(diffusion.alphas_cumprod, golden["alphas_cumprod"], rtol=1e-12, atol=0)
    x0, t, noise = golden["x0"], golden["t"], golden["noise"]
    x_t = diffusion.add_noise(x0, t, noise)
    losses = diffusion.losses(referenced_model(golden, DIRECTORY)(x_t, t, golden["y"]), x0, x_t, t, noise)
    for name in ("mse", "vb", "loss"):
        close(getattr(losses, name), golden[name])


def check_flops_loss(golden: Golden) -> None:
    for key in (key for key in golden.arrays if key.endswith("_ratio")):
        name, target = key.removesuffix("_ratio").rsplit("_", 1)
        config = model_config("/".join(name.rsplit("-", 1)))
        routing = Routing(*(golden[f"{name}_{mask}_mask"] for mask in ("head", "channel", "token")))
        ratio, expected = flops_ratio(routing, config).mean(), golden[key]
        torch.testing.assert_close(ratio, expected, rtol=1e-6, atol=0)
        loss = flops_loss(routing, config, float(target), golden.meta["weight"])
        # Near the target the loss is a small difference squared: a ratio right to 1e-6 moves it by this much.
        slack = 2 * golden.meta["weight"] * abs(expected - float(target)) * expected * 1e-6
        torch.testing.assert_close(loss, golden[f"{name}_{target}_loss"], rtol=1e-6, atol=slack.item())


def check_metrics(golden: Golden) -> None:
    reference, generated = golden["ref_features"].numpy(), golden["gen_features"].numpy()
    np.testing.assert_allclose(fid(reference, generated), golden["fid"], rtol=1e-6)
    score, _ = inception_score(golden["probs"].numpy(), golden.meta["is_split_size"])
    np.testing.assert_allclose(score, golden["inception_score"], rtol=1e-6)
    precision, recall = precision_recall(reference, generated, k=golden.meta["prc_k"])
    assert precision == golden["precision"].item()
    assert recall == golden["recall"].item()


CHECKS = {
    "dit": check_dit,
    "dydit": check_dydit,
    "sampler": check_sampler,
    "training_loss": check_training_loss,
    "flops_loss": check_flops_loss,
    "metrics": check_metrics,
}


def test_directory_holds_golden_files() -> None:
    assert FILES, f"no .npz file in {DIRECTORY}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@torch.no_grad()
def test_golden(path: Path) -> None:
    golden = Golden(path)
    CHECKS[golden.meta["kind"]](golden)
