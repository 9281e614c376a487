"""The latency harness: what is timed, how it is compared, what it refuses. No assertion about speed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.latency import breakdown
from bench.latency.cases import Case, LatencyOptions, build_pair, random_inputs, timed_cases
from bench.latency.measure import _sampling, measure_breakdown, measure_latency
from bench.latency.tables import Beside, fastest, speed_columns, write_growth
from bench.machine import devices, matrix_rate
from bench.machine.timing import Budget, Timed
from bench.records import Results, run_record
from bench.records.tables import read_table
from dydit import InputError
from dydit.inference.spans import span

QUICK = Budget(seconds=0.0, least=2, most=2, warmup=0)
COLUMNS = {
    *("model", "lambda", "batch", "device", "dtype", "engine", "ms_median", "ms_q25", "ms_q75", "images_per_s"),
    *("base", "speedup", "speedup_low", "speedup_high", "flops_ratio", "macs_ratio", "efficiency", "matmul_share"),
    *("over_plain", "over_plain_low", "over_plain_high", "published_speedup", "routing"),
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("latency")
    options = LatencyOptions(
        models=["DyDiT-S/2"],
        lambdas=[0.5, 0.3],
        batch=[1, 2],
        profiles=["even"],
        run_steps=1,
        budget=QUICK,
        alternatives=["openvino"],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "openvino", None)
        patch.setitem(matrix_rate.SIDE, "cpu", 64)
        measure_latency([options], Results(directory))
    return directory


def test_writes_every_engine_with_the_published_row_beside_it(ran: Path) -> None:
    table = read_table(ran, "latency")
    assert set(table.columns) >= COLUMNS
    assert (table["model"] == "DiT-S/2").all()
    counts = table.groupby(["batch", "engine"]).size()
    for batch in (1, 2):
        assert counts[batch].to_dict() == {"static": 1, "plain": 1, "masked": 2, "realised": 2, "openvino": 1}
    absent = table[table["engine"] == "openvino"]
    assert absent["note"].str.startswith("not run: openvino cannot be imported").all()
    assert absent[["ms_median", "speedup", "matmul_share"]].isna().all(axis=None)
    table = table.drop(absent.index)
    half = table[(table["engine"] == "realised") & (table["lambda"] == 0.5)]
    assert half["flops_ratio"].to_numpy() == pytest.approx(3.16 / 6.07, abs=0.01)
    assert (half["published_speedup"] == 1.54).all()
    assert half["routing"].str.startswith("synthetic routing").all()
    np.testing.assert_allclose(table["macs_ratio"], 1 / table["flops_ratio"])
    np.testing.assert_allclose(table["efficiency"], table["speedup"] / table["macs_ratio"])
    plain = table[table["engine"] == "plain"]
    assert (plain["over_plain"] == 1).all() and (plain["flops_ratio"] == 1).all()
    assert table["over_plain"].between(table["over_plain_low"], table["over_plain_high"]).all()
    for _, rows in table.groupby("batch"):  # speed-ups are over the fastest static engine, which every row names
        fastest = rows[rows["lambda"] == 1.0].sort_values("ms_median").iloc[0]
        assert (rows["base"] == fastest["engine"]).all() and fastest["speedup"] == 1
    assert (table["matmul_share"] > 0).all()
    np.testing.assert_allclose(table["images_per_s"], table["batch"] / table["ms_median"] * 1e3)
    assert (table.loc[table["engine"] == "masked", "flops_ratio"] > 1).all()
    assert (table["s_per_image_basis"] == "from 1 steps").all()
    static = table[table["engine"] == "static"]
    hidden_mib = 2 * static["batch"] * 256 * 4 * 384 * 4 / 2**20  # rows x tokens x hidden channels of the MLP, float32
    assert (static["peak_mib"] > hidden_mib).all()  # kept memory is counted, too


def test_keeps_raw_samples_and_the_best_batches(ran: Path) -> None:
    samples = run_record.read_run(ran)["samples"]
    assert len(samples) == 2 * 7  # six engines and the dense product
    assert all(len(sample["rounds_ms"]) == 2 and sample["first_ms"] > 0 for sample in samples)
    own = {sample["ran_in"]["products"] for sample in samples if sample["case"] != "dense product"}
    assert own == {"torch, float32"}
    best = read_table(ran, "latency_best")
    assert len(best) == 5
    np.testing.assert_allclose(best["speedup_at_best"], best["images_per_s"] / best["images_per_s_base"])
    assert best["base"].nunique() == 1 and (best["engine"] != best["base"]).all()


def test_a_row_holds_paired_ratios_and_the_share_of_the_rate_of_a_large_product() -> None:
    timed, static, plain, product = (
        Timed(9.0, rounds) for rounds in ((10.0, 20.0, 12.0), (20.0, 40.0, 36.0), (30.0, 60.0, 36.0), (5.0, 8.0, 6.0))
    )
    row = speed_columns(3, timed, Beside("torch.compile", static, product, 200.0, plain), 0.25, 100.0)
    assert row["base"] == "torch.compile" and row["ms_median"] == 12.0 and row["images_per_s"] == 250.0
    assert row["speedup"] == 2.0 and row["over_plain"] == 3.0 and row["speedup_low"] <= 2.0 <= row["speedup_high"]
    assert row["efficiency"] == 0.5 and row["macs_ratio"] == 4.0
    assert row["matmul_share"] == 100 / 200 * 0.5  # in a round it does half of the product's work in twice its time
    assert fastest({"a": static, "b": timed, "c": plain}, ("a", "b")) == "b"


def test_engines_agree_on_what_they_compute() -> None:
    options = LatencyOptions(models=["DiT-S/2"], lambdas=[0.5], profiles=["even"], batch=[1])
    static, dynamic = build_pair("DiT-S/2", options)
    found = timed_cases("DiT-S/2", static, dynamic, 2, options)
    given = random_inputs(static, 1, options)
    masked, realised = (found[key].model(*given) for key in ("masked 0.5", "realised 0.5 even"))
    torch.testing.assert_close(realised, masked, rtol=1e-4, atol=1e-4 * masked.abs().max().item())
    with torch.no_grad():
        torch.testing.assert_close(found["static"].model(*given), static(*given), rtol=1e-4, atol=1e-4)


def test_sampling_keeps_its_state_in_float32_around_a_network_in_bfloat16() -> None:
    seen: list[torch.dtype] = []

    def network(x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        seen.append(x.dtype)
        return torch.zeros(len(x), 8, 4, 4, dtype=x.dtype)

    case = Case("static", None, "", network, 1.0)
    given = torch.randn(4, 4, 4, 4).bfloat16(), torch.zeros(4).long(), torch.tensor([1, 2, 10, 10])
    assert _sampling(case, given, 3)().dtype == torch.float32
    assert seen == [torch.bfloat16] * 3


def test_the_parts_of_a_forward_on_a_gpu_are_timed_by_events(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = now

        def elapsed_time(self, end: Event) -> float:
            return end.at - self.at

    def forward() -> None:
        nonlocal now
        for part in ("norm", "MLP", "norm"):
            with span(part):
                now += 1.0
        now += 0.5

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    times = breakdown.measure_parts({"static": forward}, torch.device("cuda"))["static"]
    assert {part: spent for part, spent in times.items() if spent} == pytest.approx(
        {"norm": 2.0, "MLP": 1.0, "forward": 3.5}
    )


def test_a_forward_is_broken_into_all_of_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breakdown, "REPEATS", 1)
    options = LatencyOptions(models=["DiT-S/2"], lambdas=[0.5], profiles=["even"], batch=[1])
    table = measure_breakdown(options, Results(tmp_path))
    for engine in ("static", "realised"):
        rows = table[table["engine"] == engine].set_index("part")
        assert rows["share"].sum() == pytest.approx(1.0)
        routed = {"token routing", "gather"}
        assert {part for part in breakdown.PARTS if rows.loc[part, "ms"] > 0} >= set(breakdown.PARTS) - routed
        assert (rows.loc["token routing", "ms"] > 0) == (engine == "realised")
        assert rows.loc["rest", "share"] < 0.5
    plain = table[table["engine"] == "plain"]  # modules that name no parts: not a table of zeros
    assert plain["part"].tolist() == ["whole"] and plain["share"].tolist() == [1.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": ["DiT-Q/2"]}, "nearest names"),
        ({"lambdas": [1.5]}, r"\(0, 1\]"),
        ({"batch": [0]}, "batch"),
        ({"dtype": "fp8"}, "fp32, bf16"),
        ({"device": "tpu"}, "choose cpu or cuda"),
        ({"tf32": True}, "a CPU has no TF32"),
        ({"profiles": ["odd"]}, "even, width-heavy"),
        ({"run_steps": 0}, "1 to 250"),
        ({"alternatives": ["tensorrt"]}, "alternative 'tensorrt': choose of diffusers, torch.compile"),
    ],
)
def test_bad_input_is_refused_before_work(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LatencyOptions(**({"models": ["DiT-S/2"]} | changes))  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a machine without CUDA")
def test_a_missing_cuda_device_is_refused() -> None:
    with pytest.raises(InputError, match="no CUDA device; use --device cpu"):
        LatencyOptions(models=["DiT-S/2"], device="cuda")


def test_a_dtype_that_the_device_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_cpu_has_bf16", lambda: False)
    with pytest.raises(InputError, match="use --dtype fp32"):
        LatencyOptions(models=["DiT-S/2"], dtype="bf16")


def test_runs_with_torch_numpy_and_pandas_alone(tmp_path: Path) -> None:
    """A bare GPU machine has nothing else installed."""
    program = """
import builtins, sys
ABSENT = "rich fvcore safetensors huggingface_hub torch_fidelity diffusers sklearn scipy datasets".split()
real = builtins.__import__
def bare(name, *rest):
    if name.split(".")[0] in ABSENT:
        raise ModuleNotFoundError(name)
    return real(name, *rest)
builtins.__import__ = bare
from bench import cli
cli.main(sys.argv[1:])
"""
    arguments = ["latency", "--models", "DiT-S/2", "--lambdas", "0.5", "--batch", "1", "--profiles", "even"]
    arguments += ["--seconds", "0", "--run-steps", "1", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "latency.csv").is_file()
    joined = write_growth([tmp_path, tmp_path], Results(tmp_path / "growth"))
    assert list(joined["tokens"]) == [256] * 4 and joined["efficiency"].notna().all()
    assert list(joined["engine"]) == ["realised", "realised", "static", "static"]
    assert (tmp_path / "growth" / "latency_growth.md").is_file()


def test_growth_of_a_directory_without_a_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"latency\.csv"):
        write_growth([tmp_path], Results(tmp_path))
