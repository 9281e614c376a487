"""The record of a run: complete, fit for JSON, and silent about who and where."""

from __future__ import annotations

import json
import platform
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.records import environment
from dydit.errors import InputError


def git(directory: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=n", "-c", "user.email=e")
    subprocess.run(["git", *identity, *arguments], cwd=directory, check=True, capture_output=True)


def test_record_is_complete_and_fit_for_json() -> None:
    record = environment.environment_record(command=["python", "-m", "bench", "flops"], seed=3)
    assert json.loads(json.dumps(record)) == record
    assert (record["command"], record["seed"]) == ("python -m bench flops", 3)
    assert record["python"] == platform.python_version()
    assert record["torch"]["version"] == torch.__version__
    assert record["torch"]["threads"] == torch.get_num_threads()
    assert len(record["torch"]["devices"]) == torch.cuda.device_count()
    assert record["cpu"]["logical_cores"] >= 1 and record["memory_gib"] > 0
    assert set(record["packages"]) == set(environment.PACKAGES)
    assert record["packages"]["numpy"].count(".") >= 1
    age = datetime.now(UTC) - datetime.fromisoformat(record["started"])
    assert timedelta(0) <= age < timedelta(minutes=2)


def test_record_names_neither_user_nor_host_nor_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("USER", "LOGNAME", "HOSTNAME"):
        monkeypatch.setenv(variable, "someone")
    monkeypatch.setattr(platform, "node", lambda: "someone")
    monkeypatch.setattr(socket, "gethostname", lambda: "someone")
    root, home = str(environment.ROOT), str(Path.home())
    text = json.dumps(environment.environment_record(command=[f"{root}/bench/x.py", f"--out={home}/out", f"{root}"]))
    assert '"./bench/x.py --out=~/out ."' in text
    assert root not in text and f"{home}/" not in text and "someone" not in text


@pytest.mark.parametrize(("dirty", "commit"), [(False, "abc"), (True, "abc (dirty)")])
def test_the_provenance_of_weights_is_command_commit_torch_and_gpu(
    monkeypatch: pytest.MonkeyPatch, dirty: bool, commit: str
) -> None:
    monkeypatch.setattr(environment, "_checkout", lambda _: {"commit": "abc", "dirty": dirty})
    monkeypatch.setattr(sys, "argv", ["/opt/repo/bench/__main__.py", "finetune"])
    facts = {"command": "python -m bench finetune", "commit": commit, "torch": torch.__version__}
    assert environment.provenance("cpu") == facts
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"the GPU of {device}")
    assert environment.provenance("cuda") == facts | {"device": "the GPU of cuda"}


def test_the_kernel_is_recorded_without_its_local_suffix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "release", lambda: "6.1.27-somecloud-v7")
    assert "6.1.27 " in environment._platform() and "somecloud" not in environment._platform()


def test_gpus_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimpleNamespace(name="NVIDIA H100 80GB HBM3", total_memory=85 * 2**30, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: gpu)
    monkeypatch.setattr(environment, "_output", lambda *command: "580.65\n580.65")
    facts = environment.environment_record(command=[])
    device = {"name": gpu.name, "memory_gib": 85.0, "capability": "9.0"}
    assert (facts["torch"]["devices"], facts["torch"]["driver"]) == ([device, device], "580.65")
    assert environment.machine_name(facts) == "2x-nvidia-h100-80gb-hbm3"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/me/repo/a", "./a"),
        ("/home/me/a", "~/a"),
        ("x --out=/home/me", "x --out=~"),
        ("'/home/me/a b'", "'~/a b'"),
        ("/home/me2/a /data/home/me", "/home/me2/a /data/home/me"),
        ("/home/me/repo-2", "~/repo-2"),
    ],
)
def test_portable_replaces_whole_prefixes(monkeypatch: pytest.MonkeyPatch, text: str, expected: str) -> None:
    monkeypatch.setattr(environment, "ROOT", Path("/home/me/repo"))
    monkeypatch.setenv("HOME", "/home/me")
    assert environment.portable(text) == expected


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("/opt/repo/bench/__main__.py", "python -m bench flops --out 'a b'"),
        ("/opt/bin/pytest", "pytest flops --out 'a b'"),
    ],
)
def test_the_running_command_is_the_default(monkeypatch: pytest.MonkeyPatch, program: str, expected: str) -> None:
    monkeypatch.setattr(sys, "argv", [program, "flops", "--out", "a b"])
    assert environment.environment_record()["command"] == expected


def test_extra_facts_cannot_replace_recorded_ones() -> None:
    with pytest.raises(InputError, match="commit, torch recorded already"):
        environment.environment_record(command=[], torch="mine", commit="mine", seed=1)


def test_commit_and_dirty_flag_follow_the_checkout(tmp_path: Path) -> None:
    nothing = {"commit": None, "dirty": None}
    assert environment._checkout(tmp_path) == nothing
    git(tmp_path, "init", "-q")
    assert environment._checkout(tmp_path) == {"commit": None, "dirty": False}
    (tmp_path / "f").write_text("1")
    git(tmp_path, "add", "f")
    git(tmp_path, "commit", "-qm", "m")
    clean = environment._checkout(tmp_path)
    assert len(clean["commit"]) == 40 and clean["dirty"] is False
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "latency.csv").write_text("of the run before")
    assert environment._checkout(tmp_path) == clean
    (tmp_path / "f").write_text("2")
    assert environment._checkout(tmp_path) == clean | {"dirty": True}
    (tmp_path / "installed").mkdir()
    assert environment._checkout(tmp_path / "installed") == nothing


def test_without_git_the_commit_is_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    record = environment.environment_record(command=[])
    assert record["commit"] is None and record["dirty"] is None


def test_an_absent_package_is_recorded_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "PACKAGES", ("numpy", "no-such-package"))
    packages = environment.environment_record(command=[])["packages"]
    assert packages["no-such-package"] is None and packages["numpy"]


def test_switches_are_read_from_torch() -> None:
    code = (
        "import json, torch; from bench.records import environment_record\n"
        "torch.set_num_threads(1); torch.backends.cuda.enable_flash_sdp(False)\n"
        "torch.backends.cuda.matmul.allow_tf32 = True; torch.backends.cudnn.allow_tf32 = False\n"
        "print(json.dumps(environment_record(command=[])['torch']))"
    )
    # In a process of its own: the switches are global.
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=environment.ROOT, capture_output=True, text=True, check=True
    )
    facts = json.loads(done.stdout)
    assert facts["threads"] == 1
    assert facts["tf32"] == {"matmul": True, "convolution": False}
    assert (facts["sdpa"]["flash"], facts["sdpa"]["math"]) == (False, True)


@pytest.mark.parametrize(
    ("model", "gpus", "expected"),
    [
        ("Intel(R) Xeon(R) Processor", [], "cpu-intel-xeon-2-cores"),
        ("Intel(R) Core(TM) i7-8700 CPU @ 3.20GHz", [], "cpu-intel-core-i7-8700-2-cores"),
        ("AMD EPYC 7763 64-Core Processor", [], "cpu-amd-epyc-7763-64-core-2-cores"),
        (None, [], "cpu-unknown-2-cores"),
        ("Intel", ["NVIDIA H100 80GB HBM3"], "nvidia-h100-80gb-hbm3"),
        ("Intel", ["NVIDIA A100-SXM4-40GB"] * 4, "4x-nvidia-a100-sxm4-40gb"),
    ],
)
def test_machine_name_is_a_folder_name(model: str | None, gpus: list[str], expected: str) -> None:
    record: dict[str, Any] = {
        "cpu": {"model": model, "logical_cores": 2},
        "torch": {"devices": [{"name": name} for name in gpus]},
    }
    assert environment.machine_name(record) == expected
    record["cpu"]["vectors"] = "AVX512"
    assert environment.machine_name(record) == (expected if gpus else expected.replace("-2-cores", "-avx512-2-cores"))
