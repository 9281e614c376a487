"""Timing learned routing: four engines over whole runs of one checkpoint, with the multiply-adds of these very runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench import cli
from bench.flops.checkpoint_macs import measure_checkpoint
from bench.latency.learned_routing import _engines
from bench.latency.whole_runs import Runs
from bench.machine import Budget
from bench.records import read_run, read_table
from bench.studies.samples import committed_file
from dydit import Diffusion, checkpoint
from dydit.flops import MATMUL, macs
from dydit.sampling import generate

pytestmark = pytest.mark.usefixtures("one_thread")

FILE = str(committed_file(0.5))
STEPS = 4


def latency(out: Path, *arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["latency", "--batch", "3", "--steps", str(STEPS), "--seconds", "0", "--out", str(out), *arguments])
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


def test_every_engine_has_a_row_with_what_it_executes(tmp_path: Path) -> None:
    assert latency(tmp_path, "--checkpoint", FILE) == 0
    table = read_table(tmp_path, "latency").set_index("engine")
    assert list(table.index) == ["static", "plain", "masked", "realised"]
    assert (table["lambda"] == 0.5).all() and (table["steps"] == STEPS).all()
    base = table["base"].iloc[0]
    assert base == table["ms_median"][["static", "plain"]].idxmin() and (table["base"] == base).all()
    assert table.loc[base, "speedup"] == table.loc["plain", "over_plain"] == 1
    assert (table["matmul_share"] > 0).all()
    config = checkpoint.load_model(FILE)[0].config
    counted = measure_checkpoint(FILE, steps=STEPS, images=3, batch_size=3)
    expected = counted.macs.total(MATMUL) / macs(config).total(MATMUL)
    assert table.loc["realised", "flops_ratio"] == pytest.approx(expected)
    assert (table["efficiency"] * table["macs_ratio"]).to_numpy() == pytest.approx(table["speedup"].to_numpy())
    record = read_run(tmp_path)
    assert record["ran_in"]["realised"]["products"] == "torch, float32"
    assert record["routing"] == "learned" and len(record["samples"]) == 5 and len(record["checkpoint"]["sha256"]) == 64


def test_engines_draw_the_same_images() -> None:
    network, _ = checkpoint.load_model(FILE)
    runs = Runs([3], STEPS, "cpu", "fp32", False, 0, Budget())
    diffusion = Diffusion.linear().respaced(STEPS)
    drawn = {}
    with torch.inference_mode():
        for name, engine in _engines(network, runs).items():  # type: ignore[arg-type]
            drawn[name] = generate(engine, diffusion, (1, 8, 8), 10, range(3), seed=0, scale=1.5)[0]
    torch.testing.assert_close(drawn["static"], drawn["plain"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(drawn["masked"], drawn["realised"], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(drawn["static"], drawn["masked"], atol=1e-2)


def test_a_file_without_routing_to_skip_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (("--checkpoint", str(committed_file())), "holds a DiT"),
        (("--checkpoint", FILE, "--steps", "0"), "steps 0"),
        (("--checkpoint", str(tmp_path / "nothing.safetensors")), "nothing.safetensors"),
    ):
        assert latency(tmp_path / "out", *arguments) == 2
        line = capsys.readouterr().err
        assert line.startswith("error: ") and len(line.splitlines()) == 1 and words in line
