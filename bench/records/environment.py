"""The record that every result carries: machine, versions, commit and command; no host name, no user name."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bench.records.places import PACKAGE, ROOT, installed
from dydit import InputError
from dydit.inference import freed_memory_is_kept, takes_tf32

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

DISTRIBUTION = "dydit-bench"
"""What the project is called where packages are installed."""
PACKAGES = (
    "numpy",
    "pandas",
    "torchvision",
    "torch-fidelity",
    "fvcore",
    "diffusers",
    "scikit-learn",
    "datasets",
    "safetensors",
)


def environment_record(*, command: list[str] | None = None, **extra: Any) -> dict[str, Any]:
    """Facts about this process that a reader of its results needs; what cannot be found out is None.

    `command` defaults to the running program's own. `extra` (seeds, sample counts, checksums) is added as it is
    and must be fit for JSON. Memory is in GiB.

    Raises:
        InputError: `extra` names a fact that is recorded already.
    """
    facts: dict[str, Any] = {
        "command": portable(shlex.join(_running_command() if command is None else command)),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **_code(),
        "python": platform.python_version(),
        "platform": _platform(),
        "cpu": {"model": _cpu_model(), "vectors": _vectors(), "logical_cores": os.cpu_count()},
        "memory_gib": _memory_gib(),
        "keeps_freed_memory": freed_memory_is_kept(),
        "torch": _torch(),
        "packages": {name: _version(name) for name in PACKAGES},
    }
    if repeated := sorted(facts.keys() & extra.keys()):
        raise InputError(f"environment record: {', '.join(repeated)} recorded already; choose another key")
    return facts | extra


def provenance(device: str) -> dict[str, str]:
    """What exported weights say about their making: command, commit, version of torch, and the GPU where one was used.

    It is to be asked for before the first file is written, which would make the working tree look changed.

    Args:
        device: on which the weights were trained, such as `cpu` or `cuda`.
    """
    record = environment_record()
    commit = f"{record['commit']}{' (dirty)' if record['dirty'] else ''}"
    facts = {"command": record["command"], "commit": commit, "torch": record["torch"]["version"]}
    gpu = torch.device(device).type == "cuda"
    return facts | ({"device": torch.cuda.get_device_name(device)} if gpu else {})


def job_facts(options: DataclassInstance) -> dict[str, Any]:
    """What several processes of one run must have in common: options, code, and versions of libraries."""
    given = {name: str(value.absolute()) if isinstance(value, Path) else value for name, value in vars(options).items()}
    versions = {name: _version(name) for name in PACKAGES}
    code = hashlib.sha256()
    for path in sorted(path for package in (PACKAGE, ROOT / "dydit") for path in package.rglob("*.py")):
        code.update(path.read_bytes())
    versions |= {"python": platform.python_version(), "torch": torch.__version__, "code": code.hexdigest()}
    return {"option": given, "version": versions}


def machine_name(record: Mapping[str, Any], where: str | Path = "run.json") -> str:
    """Folder name for the results of one kind of machine: `cpu-intel-xeon-avx512-2-cores`, `nvidia-h100-80gb-hbm3`.

    The vector instructions stand in it because some CPUs give generations of very different speed one name; older
    records lack them.

    Args:
        record: of a run.
        where: its file, for the message.

    Raises:
        InputError: the record names no machine.
    """
    try:
        devices, cpu = record["torch"]["devices"], record["cpu"]
        if devices:
            return _slug((f"{len(devices)}x " if len(devices) > 1 else "") + devices[0]["name"])
        model = re.sub(r"\((r|tm)\)|\b(cpu|processor)\b|@.*", " ", (cpu["model"] or "unknown").lower())
        return _slug(f"cpu {model} {(cpu.get('vectors') or '').lower()} {cpu['logical_cores']} cores")
    except (LookupError, TypeError, AttributeError):
        raise InputError(
            f"{where}: names no machine, so that its record is of another version; run the measurement again"
        ) from None


def portable(text: str) -> str:
    """`text` with the repository's root written as `.`, an installed copy's as `site-packages`, the home as `~`."""
    root = {str(ROOT): ROOT.name if installed() else "."}
    # The longer first: either may lie within the other.
    for prefix, short in sorted((root | {str(Path.home()): "~"}).items(), key=lambda item: -len(item[0])):
        if prefix != os.sep:
            text = re.sub(rf"(?<![\w./-]){re.escape(prefix)}(?![\w.-])", short, text)
    return printable(text)


def printable(text: str) -> str:
    """`text` with what cannot be printed as escapes: bytes of a path that are not UTF-8, and control characters."""
    whole = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in whole)


def _running_command() -> list[str]:
    program = Path(sys.argv[0])
    if program.name == "__main__.py":
        return ["python", "-m", program.parent.name, *sys.argv[1:]]
    return [program.name, *sys.argv[1:]]


def _code() -> dict[str, Any]:
    """Which code runs: the commit of a checkout, the version of an installed copy."""
    if installed():
        return {"commit": _version(DISTRIBUTION), "dirty": None}
    return _checkout(ROOT)


def _checkout(root: Path) -> dict[str, Any]:
    """Commit and whether the files differ from it; None where `root` is not the root of a git checkout."""
    # An installed copy may lie inside a checkout of something else, whose commit says nothing about it.
    top = _output("git", "-C", str(root), "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root.resolve():
        return {"commit": None, "dirty": None}
    # Results are no part of what makes results: the first of several runs must not make the second look changed.
    changes = _output("git", "-C", str(root), "status", "--porcelain", "--", ".", ":(exclude)results")
    return {
        "commit": _output("git", "-C", str(root), "rev-parse", "--verify", "HEAD"),
        "dirty": None if changes is None else bool(changes),
    }


def _platform() -> str:
    # The kernel's version without its local suffix, which names the host or its provider.
    release = re.match(r"[\d.]*", platform.release())
    return " ".join(
        [platform.system(), release[0] if release else "", platform.machine(), *platform.libc_ver()]
    ).strip()


def _cpu_model() -> str | None:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor() or None
    return found[1].strip() if found else platform.machine() or None


def _vectors() -> str | None:
    """The widest vector instructions that torch uses on this CPU, such as AVX2 or AVX512."""
    capability: str = torch.backends.cpu.get_cpu_capability()
    return None if capability == "DEFAULT" else capability


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _torch() -> dict[str, Any]:
    cuda = torch.backends.cuda
    properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if properties else None
    return {
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "driver": driver.splitlines()[0] if driver else None,
        "devices": [
            {
                "name": device.name,
                "memory_gib": round(device.total_memory / 2**30, 1),
                "capability": f"{device.major}.{device.minor}",
            }
            for device in properties
        ],
        "tf32": tf32_flags(),
        "sdpa": {name: getattr(cuda, f"{name}_sdp_enabled")() for name in ("flash", "mem_efficient", "cudnn", "math")},
    }


def tf32_flags() -> dict[str, bool]:
    """Whether float32 matrix products (`matmul`) and convolutions (`convolution`) on a GPU may take TF32 inputs."""
    backends = torch.backends
    return {
        "matmul": takes_tf32(backends.cuda.matmul, backends.cuda.matmul),
        "convolution": takes_tf32(getattr(backends.cudnn, "conv", None), backends.cudnn),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _output(*command: str) -> str | None:
    """What a command prints, stripped; None where it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
