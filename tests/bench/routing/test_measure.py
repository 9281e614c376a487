"""What routing learned: exact widths, token maps that are the model's own, tables that add up, whole files."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from bench.commands.measure import routing
from bench.generation import samplers
from bench.generation.generate import generate_images
from bench.generation.job import GenerationOptions
from bench.records import environment, run_record
from bench.records.tables import read_table
from bench.routing.description import between_images, class_effect, describe_routing
from bench.routing.figures import class_figure, draw_figures, position_figure, save_figure, token_figure, width_figure
from bench.routing.learned import LearnedRouting
from bench.routing.measure import measure_routing
from bench.routing.observation import SHOWN, observe, prepare_observation
from bench.routing.tables import class_table, layer_table, position_table, timestep_table
from bench.studies.samples import committed_file
from dydit import DiT, DyDiT, InputError, ObservedSampling, checkpoint
from dydit.ablations.networks import LayerSkipOnly, SdtOnly
from dydit.config import DiTConfig
from dydit.flops import flops_ratio
from dydit.inference.width_plan import WidthPlan
from dydit.routing import Routing

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # diffusers makes an array of a tensor, which NumPy 2 wants done with a copy keyword.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]

DYNAMIC = str(committed_file(0.5))
TINY = DiTConfig(input_size=6, patch_size=2, in_channels=1, hidden_size=16, depth=2, num_heads=4, num_classes=3)


def tiny(path: Path, kind: type[DiT] = DyDiT, **changes: Any) -> str:
    """A file of this suite with a random model whose routers open about half."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = kind(**{**TINY.kwargs(), **changes})
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        model.y_embedder.embedding_table.weight.data *= 10  # so that the branches differ
        model.final_layer.linear.weight.data *= 0.1  # so that the states stay of the order of 1
    checkpoint.write(path, model)
    return str(path)


def options(checkpoint_: str, out: Path, **changes: Any) -> GenerationOptions:
    return GenerationOptions(checkpoint=checkpoint_, out=out, **{"images": 10, "steps": 4, "unit": 4, **changes})


def learn(wanted: GenerationOptions) -> LearnedRouting:
    return observe(wanted, prepare_observation(wanted))


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> LearnedRouting:
    directory = tmp_path_factory.mktemp("tiny")
    return learn(options(tiny(directory / "m.safetensors"), directory))


# Widths


def test_widths_are_the_routers_own_at_every_timestep(learned: LearnedRouting, tmp_path: Path) -> None:
    model, _ = checkpoint.load_model(tiny(tmp_path / "m.safetensors"))
    assert isinstance(model, DyDiT)
    plan = WidthPlan.from_routers(model, range(1000))
    for timestep in range(1000):
        heads, channels = plan.at(timestep)
        assert np.array_equal(learned.heads_open[timestep], heads.numpy())
        assert np.array_equal(learned.channels_open[timestep], channels.numpy())
    assert 0 < learned.heads_open[..., 1:].mean() < 1 and 0 < learned.channels_open[..., 1:].mean() < 1
    t = torch.tensor([0, 1, 500, 999])
    with torch.no_grad():
        _, routing = model.route(torch.zeros(4, 1, 6, 6), t, torch.zeros(4, dtype=torch.int64))
    assert np.array_equal(routing.heads.bool().numpy(), learned.heads_open[t])
    assert np.array_equal(routing.channels.bool().numpy(), learned.channels_open[t])
    assert np.array_equal(learned.head_rate, learned.heads_open.mean(-1))
    assert np.array_equal(learned.channel_rate, learned.channels_open.mean(-1))
    opened = Routing(routing.heads, routing.channels, torch.ones_like(routing.tokens))
    assert np.allclose(learned.width_ratio[t], flops_ratio(opened, TINY), atol=1e-7)


# Tokens


@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_token_maps_are_what_the_model_decides_on_the_states_of_the_run(
    tmp_path: Path, sampler: str, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = options(tiny(tmp_path / "m.safetensors"), tmp_path, sampler=sampler, scale=scale)
    seen: list[tuple[Tensor, int, Tensor]] = []
    call = ObservedSampling.__call__

    def recording(self: Any, x: Tensor, t: int, y: Tensor) -> Tensor:
        seen.append((x.clone(), t, y.clone()))
        return call(self, x, t, y)

    monkeypatch.setattr(ObservedSampling, "__call__", recording)
    observed = learn(wanted)
    model, _ = checkpoint.load_model(wanted.checkpoint)
    assert isinstance(model, DyDiT)
    branches = 1 if scale == 1.0 else 2
    assert observed.branches == ("conditional", "unconditional")[:branches]
    assert observed.timesteps.tolist() == list(samplers.make_solver(sampler, 4).timesteps)

    masks = np.zeros((10, branches, 4, 2, 3, 3), dtype=bool)
    ratio = np.zeros((10, branches, 4))
    assert len(seen) == 3 * 4  # batches of 4, 4 and 2 images, 4 steps each
    for number, (x, t, y) in enumerate(seen):
        batch, step = divmod(number, 4)
        rows = range(4 * batch, min(4 * batch + 4, 10))
        assert t == observed.timesteps[step]
        with torch.no_grad():
            _, routing = model.route(x, t, y)
        for row in range(len(x)):  # told apart by the label alone
            branch = int(y[row] == TINY.num_classes)
            image = rows[row % len(rows)]
            masks[image, branch, step] = routing.tokens[row].bool().reshape(2, 3, 3).numpy()
            ratio[image, branch, step] = flops_ratio(routing, TINY)[row]
            assert branch or y[row] == observed.labels[image]
    assert 0 < masks.mean() < 1
    assert np.array_equal(observed.shown_maps, masks[:SHOWN])
    assert np.allclose(observed.token_map, masks.mean(0), atol=1e-7)
    assert np.allclose(observed.token_rate, masks.mean((0, 4, 5)))
    assert np.allclose(observed.image_token_rate, masks.mean((2, 3, 4, 5)))
    assert np.allclose(observed.image_flops_ratio, ratio.mean(2), atol=1e-7)
    assert np.allclose(observed.flops_ratio, ratio.mean(0), atol=1e-7)
    differ = masks[:, 0] != masks[:, -1]
    assert np.allclose(observed.branches_differ, differ.mean((0, 3, 4))) and (differ.any() == (branches == 2))


def test_the_images_shown_are_those_that_generate_makes(tmp_path: Path) -> None:
    wanted = options(DYNAMIC, tmp_path / "images", images=8, unit=8, engine="masked")
    observed = learn(dataclasses.replace(wanted, engine=None))
    path = generate_images(wanted)
    assert path is not None
    with np.load(path) as file:
        assert np.array_equal(observed.shown_images, file["arr_0"][:SHOWN])
        assert np.array_equal(observed.labels, file["arr_1"])


def test_batches_do_not_change_the_counts(learned: LearnedRouting, tmp_path: Path) -> None:
    other = learn(options(tiny(tmp_path / "m.safetensors"), tmp_path, unit=None))
    assert np.allclose(other.token_map, learned.token_map, atol=0.11)  # rounding may turn one image of ten
    assert np.allclose(other.image_flops_ratio, learned.image_flops_ratio, atol=0.01)
    assert np.array_equal(other.labels, learned.labels)


def test_fewer_images_than_are_shown(tmp_path: Path) -> None:
    observed = learn(options(tiny(tmp_path / "m.safetensors"), tmp_path, images=3, unit=2))
    assert len(observed.shown_images) == len(observed.shown_maps) == 3
    assert np.allclose(observed.shown_maps.mean(0), observed.token_map)


# Tables


def test_classes_add_up_to_the_run(learned: LearnedRouting) -> None:
    table = class_table(learned)
    assert table["images"].sum() == 10 and table["label"].is_monotonic_increasing
    for column, whole in (
        ("token_rate_conditional", learned.token_rate[0].mean()),
        ("token_rate_unconditional", learned.token_rate[1].mean()),
        ("flops_ratio", learned.flops_ratio.mean()),
    ):
        assert (table["images"] * table[column]).sum() / 10 == pytest.approx(whole)
    row = table.iloc[int(table["images"].argmax())]
    own = learned.image_flops_ratio[learned.labels == row["label"]].mean(1)
    assert row["flops_ratio_std"] == pytest.approx(own.std(ddof=1))
    assert row["flops_ratio_stderr"] == pytest.approx(own.std(ddof=1) / len(own) ** 0.5)


def test_layers_bins_and_positions_average_to_the_same_rates(learned: LearnedRouting) -> None:
    layers, bins = layer_table(learned), timestep_table(learned)
    positions = position_table(learned)
    for name, rate in (("head", learned.head_rate), ("group", learned.channel_rate)):
        assert [table[f"{name}_rate"].mean() for table in (layers, bins)] == pytest.approx([rate.mean()] * 2)
    for branch, rate in zip(learned.branches, learned.token_rate, strict=True):
        column = f"token_rate_{branch}"
        assert [table[column].mean() for table in (layers, positions)] == pytest.approx([rate.mean()] * 2)
        assert (bins[column] * bins["steps"]).sum() / 4 == pytest.approx(rate.mean())
    assert bins["steps"].sum() == 4 and bins["timesteps"].iloc[0] == "900-999"
    assert bins["flops_ratio"].isna().equals(bins["steps"] == 0)
    heads = learned.heads_open[:, 1]
    row = layers.iloc[1]
    assert row["heads_always_open"] == sum(heads[:, h].all() for h in range(4)) >= 1
    assert row["heads_never_open"] == sum(not heads[:, h].any() for h in range(4))
    assert row["head_changes"] == sum((heads[t] != heads[t - 1]).any() for t in range(1, 1000))
    opened = learned.channel_rate[learned.timesteps]
    assert np.allclose(layers["mlp_work"], (opened * learned.token_rate.mean(0)).mean(0))


def test_the_class_effect_is_that_of_analysis_of_variance() -> None:
    from scipy.stats import f_oneway

    values = np.random.default_rng(0).normal(size=30)
    labels = np.repeat([0, 1, 2], 10)
    effect = class_effect(labels, values + labels)
    assert effect is not None and effect.p < 1e-3 and effect.chance == pytest.approx(2 / 29)
    f = f_oneway(*(values[labels == k] + k for k in range(3))).statistic
    assert effect.explained == pytest.approx(2 * f / (2 * f + 27))
    assert class_effect(labels, np.ones(30)) is None
    assert class_effect(np.arange(30), values) is None


def test_variance_between_images_tells_fixed_masks_from_free_ones(learned: LearnedRouting) -> None:
    def of(rate: np.ndarray) -> float | None:
        return between_images(dataclasses.replace(learned, token_map=rate.astype(np.float32)))

    shape = learned.token_map.shape
    fixed = np.random.default_rng(0).integers(2, size=shape)
    assert of(fixed) == 0
    assert of(np.full(shape, 0.5)) == 1
    assert of(np.ones(shape)) is None and of(np.zeros(shape)) is None


# Findings


def record(model: str = "DyDiT") -> dict[str, Any]:
    return {
        "checkpoint": "a/b.safetensors",
        "sampling": {"scale": 1.5, "steps": 4, "sampler": "ddpm", "model": model},
    }


def test_findings_name_what_is_closed_most() -> None:
    heads = np.ones((1000, 2, 4), dtype=bool)
    heads[500:, 1, 1:] = False  # layer 1 keeps one head of four at noisy timesteps
    tokens = np.ones((2, 4, 2, 3, 3))
    tokens[0, 0, 0, 2, 1] = 0.5
    observed = dataclasses.replace(
        made(), heads_open=heads, head_rate=heads.mean(-1), width_ratio=heads.mean((1, 2)), token_map=tokens
    )
    ratio = np.full((2, 4), observed.width_ratio[observed.timesteps].mean() - 0.004)
    observed = dataclasses.replace(observed, token_rate=tokens.mean((-2, -1)), flops_ratio=ratio)
    text = describe_routing(observed, record())
    assert text.startswith("# What routing learned: b\n\nOver 10 images, 4 steps of ddpm at guidance scale 1.5,")
    assert "81.2 % of the heads are open, fewest in layer 1 (62.5 %), most in layer 0 (100 %)" in text
    assert "of all 8, 5 never close, 0 never open and 3 go by the timestep" in text
    assert "All channel groups are open at every timestep: their routing is not used." in text
    assert "most of the work at timesteps 0-499 (100 %) and least at 500-999 (62.5 %)" in text
    assert "99.3 % (conditional) and 100 % (unconditional) pass the MLP, least in layer 0 (99.3 %)" in text
    assert "(row 2, column 1)" in text
    assert "Token routing is hardly used: beyond widths it saves 0.4 %" in text
    assert len(text.strip().split("\n\n")) == 2  # a heading and a paragraph


def test_findings_of_a_complete_model_say_that_nothing_is_used() -> None:
    text = describe_routing(made(), record())
    said = ("All heads are open", "All channel groups are open", "hardly changes", "every token passes every MLP")
    assert all(sentence in text for sentence in said)
    assert "Classes" not in text and "variance" not in text


def made() -> LearnedRouting:
    """Everything open: 10 images, 2 layers, 4 heads, 4 steps, 9 tokens, 3 classes."""
    return LearnedRouting(
        timesteps=np.array([999, 666, 333, 0]),
        heads_open=np.ones((1000, 2, 4), dtype=bool),
        channels_open=np.ones((1000, 2, 4), dtype=bool),
        head_rate=np.ones((1000, 2)),
        channel_rate=np.ones((1000, 2)),
        width_ratio=np.ones(1000),
        token_map=np.ones((2, 4, 2, 3, 3)),
        token_rate=np.ones((2, 4, 2)),
        branches_differ=np.zeros((4, 2)),
        flops_ratio=np.ones((2, 4)),
        labels=np.arange(10) % 3,
        image_token_rate=np.ones((10, 2)),
        image_flops_ratio=np.ones((10, 2)),
        shown_images=np.zeros((6, 6, 6, 1), dtype=np.uint8),
        shown_maps=np.ones((6, 2, 4, 2, 3, 3), dtype=bool),
    )


# Figures


def test_figures_are_the_same_bytes_again(learned: LearnedRouting, tmp_path: Path) -> None:
    few = dataclasses.replace(learned, shown_images=learned.shown_images[:2], shown_maps=learned.shown_maps[:2])
    first, again = draw_figures(few), draw_figures(few)
    assert list(first) == list(again)
    for name in first:
        one, other = tmp_path / "first.png", tmp_path / "again.png"
        save_figure(first[name], one)
        save_figure(again[name], other)
        assert one.read_bytes() == other.read_bytes() and b"Software" not in one.read_bytes()


def test_figures_without_guidance_have_one_branch(learned: LearnedRouting) -> None:
    cut: dict[str, Any] = {name: getattr(learned, name)[:1] for name in ("token_map", "token_rate", "flops_ratio")}
    cut |= {name: getattr(learned, name)[:, :1] for name in ("image_token_rate", "image_flops_ratio", "shown_maps")}
    one = dataclasses.replace(learned, **cut)
    titles = [ax.get_title() for ax in width_figure(one).axes]
    assert [title for title in titles if "tokens" in title] == ["tokens in the MLP, conditional (SDT)"]
    assert len(token_figure(one).axes) == 7 * (1 + 4) + 1  # 6 images and their mean, 4 steps, colour bar
    assert list(class_table(one))[:4] == ["label", "images", "token_rate_conditional", "flops_ratio"]


def test_figures_take_colour_images_many_classes_and_many_layers(tmp_path: Path) -> None:
    layers = 9
    many = dataclasses.replace(
        made(),
        head_rate=np.ones((1000, layers)),
        channel_rate=np.ones((1000, layers)),
        token_map=np.ones((2, 4, layers, 3, 3)),
        token_rate=np.ones((2, 4, layers)),
        labels=np.arange(50),
        image_token_rate=np.ones((50, 2)),
        image_flops_ratio=np.linspace(0.4, 0.5, 100).reshape(50, 2),
        shown_images=np.zeros((6, 6, 6, 3), dtype=np.uint8),
        shown_maps=np.ones((6, 2, 4, layers, 3, 3), dtype=bool),
    )
    token_figure(many).savefig(tmp_path / "tokens.png", dpi=20)
    assert class_figure(many).axes[0].get_xlabel() == "rank among 50 labels"
    assert len(position_figure(many).axes) == 14 + 1  # two rows of seven, and the colour bar


# The whole


def test_a_run_on_a_committed_checkpoint_writes_whole_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.get_num_threads()
    routing.run(routing.RoutingOptions(checkpoint=DYNAMIC, images=30, steps=10, out=tmp_path))
    assert torch.get_num_threads() == before
    text = (tmp_path / "findings.md").read_text(encoding="utf-8")
    assert text.startswith(capsys.readouterr().out)
    assert sorted(re.findall(r"!.*\((.+)\)", text)) == sorted(path.name for path in tmp_path.glob("*.png")) != []
    keys = read_table(tmp_path, "routing_arrays")
    with np.load(tmp_path / "routing.npz") as file:
        assert sorted(file.files) == sorted(keys["key"])
        for key, shape, dtype in zip(keys["key"], keys["shape"], keys["dtype"], strict=True):
            assert " x ".join(map(str, file[key].shape)) == str(shape) and str(file[key].dtype) == dtype
        ratio = file["flops_ratio"].mean()
    assert f"{100 * ratio:.1f} % of the blocks' multiply-adds" in text
    assert pd.read_csv(tmp_path / "routing_classes.csv")["images"].sum() == 30
    written = run_record.read_run(tmp_path)
    assert written["checkpoint"] == environment.portable(DYNAMIC) and written["images"] == 30
    assert written["sampling"]["engine"] == "masked" and len(written["sampling"]["weights_sha256"]) == 64
    for name in ("widths", "tokens", "positions", "classes"):
        assert (tmp_path / f"routing_{name}.png").read_bytes().startswith(b"\x89PNG")


def test_an_ablation_that_keeps_the_routers_is_studied(tmp_path: Path) -> None:
    observed = learn(options(tiny(tmp_path / "m.safetensors", SdtOnly), tmp_path))
    assert observed.heads_open.all() and 0 < observed.token_rate.mean() < 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": str(committed_file())}, "holds a DiT, which routes nothing"),
        ({"sampler": "euler"}, "ddpm, ddim, dpm-solver"),
        ({"steps": 0}, "--steps 0"),
        ({"images": 0}, "--images 0"),
        ({"scale": float("nan")}, "--scale nan"),
        ({"checkpoint": "nowhere.safetensors"}, "no such checkpoint file"),
        ({"model": "DyDiT-S/2"}, "has depth = 4, DyDiT-S/2 has 12"),
    ],
)
def test_bad_input_is_one_line_before_any_work(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        measure_routing(options(**{"checkpoint_": changes.pop("checkpoint", DYNAMIC), "out": tmp_path, **changes}))
    assert len(str(caught.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_masks_that_are_not_dydits_are_refused(tmp_path: Path) -> None:
    source = tiny(tmp_path / "m.safetensors", LayerSkipOnly)
    with pytest.raises(InputError, match="holds a LayerSkipOnly, whose masks are not DyDiT's"):
        measure_routing(options(source, tmp_path / "out"))


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        measure_routing(options(DYNAMIC, taken))
    assert taken.read_text() == "mine"
