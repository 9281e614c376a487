"""What the project runs, by name.

All sessions share one environment, because torch alone takes 5 GB on disk. The session `environment` builds it with pip
from requirements.lock, which names every package with its version and checksums but for torch and what torch brings,
whose build depends on the machine. Every other session requires it; pip runs again only when that file or
pyproject.toml has changed. `lock` writes the file, `oldest` tests without it.
"""

import hashlib
import re
import sysconfig
import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "tests"]

ROOT = Path(__file__).parent
LOCK = "requirements.lock"
OF_TORCH = re.compile("(torch|torchvision|triton|cuda-.*|nvidia-.*)==")
"""Names in the lock of a CUDA build of torch: a machine without a GPU needs another."""


@nox.session(venv_backend="virtualenv", reuse_venv=True, default=False)
def environment(session: nox.Session) -> None:
    """Install the project and its tools, unless the environment is up to date."""
    stamp = Path(session.virtualenv.location) / "installed-from"
    # The folder counts too: an editable install in a copied tree would still point at the original.
    files = b"".join((ROOT / name).read_bytes() for name in ("pyproject.toml", LOCK))
    wanted = hashlib.sha256(files + str(ROOT).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    stamp.unlink(missing_ok=True)  # An install that breaks off leaves no claim behind.
    # Not session.install, which is silent: this takes minutes. Nothing comes back when nox was told not to install.
    asked = nox.project.load_toml("pyproject.toml")["project"]["dependencies"]
    torch = [each for each in asked if re.match("(torch|torchvision)>=", each)]
    session.run_install("python", "-m", "pip", "install", *torch)
    session.run_install("python", "-m", "pip", "install", "--no-deps", "--require-hashes", "-r", LOCK)
    # Apart, because a folder has no checksum, and with the build tool of the lock.
    if session.run_install("python", "-m", "pip", "install", "--no-deps", "--no-build-isolation", "-e", "."):
        stamp.write_text(wanted)


@nox.session(venv_backend="virtualenv", reuse_venv=True, default=False)
def lock(session: nox.Session) -> None:
    """Add to requirements.lock what pyproject.toml asks for; `-- --upgrade` takes the newest versions of all."""
    session.install("uv")
    least = nox.project.load_toml("pyproject.toml")["project"]["requires-python"].removeprefix(">=")
    scope = ["--extra", "dev", "--universal", "--python-version", least]
    form = ["--generate-hashes", "--no-annotate", "--no-header", "--quiet", "--output-file", LOCK]
    session.run("uv", "pip", "compile", "pyproject.toml", *scope, *form, *session.posargs)
    entries = re.split(r"\n(?=\S)", Path(LOCK).read_text())
    Path(LOCK).write_text("\n".join(each for each in entries if not OF_TORCH.match(each)))


@nox.session(venv_backend="virtualenv", reuse_venv=True, default=False)
def oldest(session: nox.Session) -> None:
    """Test what reads, writes and samples with the oldest versions that pyproject.toml admits (6 GB); `-- PATHS`."""
    project = nox.project.load_toml("pyproject.toml")["project"]
    tools = [each for each in project["optional-dependencies"]["dev"] if each.startswith("hypothesis")]
    admitted = [*project["dependencies"], *project["optional-dependencies"]["tensorboard"], *tools]
    session.install("-e", ".[tensorboard]", *(each.replace(">=", "==") for each in admitted))
    rooms = ["dydit/checkpoint", "dydit/baselines", "bench/records", "bench/data", "bench/generation", "bench/quality"]
    paths = session.posargs or ["tests/bench/test_cli.py", *(f"tests/{room}" for room in rooms)]
    session.run("python", "-m", "pytest", *paths)


@nox.session(venv_backend="virtualenv", reuse_venv=True, default=False)
def audit(session: nox.Session) -> None:
    """Look up known vulnerabilities of the packages in requirements.lock; asks the package index over the network."""
    session.install("pip-audit")
    session.run("pip-audit", "--strict", "--disable-pip", "--require-hashes", "-r", LOCK, *session.posargs)


@nox.session(venv_backend="none", requires=["environment"], default=False)
def release(session: nox.Session) -> None:
    """Build the wheel and the source distribution, and write their bill of materials (CycloneDX); `-- DIR`."""
    out = Path(*session.posargs[:1] or ["build"])
    python(session, "-m", "hatchling", "build", "-d", str(out / "dist"))
    materials = ["--pyproject", "pyproject.toml", "--output-reproducible", "-o", str(out / "sbom.json")]
    python(session, "-m", "cyclonedx_py", "requirements", LOCK, *materials)


def shared(session: nox.Session, kind: str) -> str:
    """A folder of the shared environment: its `scripts`, or its `purelib` with the libraries."""
    location = session.cache_dir.parent / "environment"
    return sysconfig.get_path(kind, "venv", {"base": str(location.absolute())})


def python(session: nox.Session, *args: str) -> None:
    """Run python with these arguments in the shared environment."""
    session.run(f"{shared(session, 'scripts')}/python", *args)


@nox.session(venv_backend="none", requires=["environment"])
def reproduce(session: nox.Session) -> None:
    """Measure, compare with the paper, write tables and a verdict per claim."""
    python(session, "-m", "bench", "reproduce", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"])
def small_scale(session: nox.Session) -> None:
    """Train the study on digits from nothing, score and judge it; or CIFAR-10 with `--dataset cifar10`."""
    python(session, "-m", "bench", "small-scale", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"])
def report(session: nox.Session) -> None:
    """Write README.md, results/README.md and results/report.html from the committed runs; `-- --page DIR` of others."""
    python(session, "-m", "bench", "report", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"])
def tests(session: nox.Session) -> None:
    """Run the tests and hold the line coverage of dydit."""
    python(session, "-m", "pytest", "--cov=dydit", "--cov-fail-under=90", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"])
def faults(session: nox.Session) -> None:
    """Kill, damage and starve every command, and write docs/reliability.md of what became of it."""
    session.env["DYDIT_FAULTS"] = "whole"
    python(session, "-m", "pytest", "tests/faults", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"])
def bench(session: nox.Session) -> None:
    """Run the timed benchmarks."""
    # pytest-benchmark refuses the two together; without timing, each benchmark runs once as a plain test.
    only = [] if "--benchmark-disable" in session.posargs else ["--benchmark-only"]
    python(session, "-m", "pytest", "bench", *only, "--benchmark-group-by=group", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"])
def lint(session: nox.Session) -> None:
    """Check style, formatting, types and the order of imports."""
    python(session, "-m", "ruff", "check")
    python(session, "-m", "ruff", "format", "--check")
    python(session, "-m", "mypy")
    session.run(f"{shared(session, 'scripts')}/lint-imports", env={"PYTHONPATH": str(ROOT)})


def with_shared_libraries(session: nox.Session) -> None:
    """Let a session's own environment import the libraries of the shared one, and not its editable install.

    A path named in a .pth file is searched, but the .pth files in it are not read.
    """
    own = sysconfig.get_path("purelib", "venv", {"base": session.virtualenv.location})
    Path(own, "libraries.pth").write_text(shared(session, "purelib") + "\n")


@nox.session(venv_backend="virtualenv", reuse_venv=True, requires=["environment"], default=False)
def fuzz(session: nox.Session) -> None:
    """Fuzz every reader for 20 seconds, about 7 minutes; `-- --seconds N [--keep] [READER ...]`."""
    session.install("atheris")
    with_shared_libraries(session)
    session.run("python", "tests/fuzz.py", *session.posargs, env={"PYTHONPATH": str(ROOT)})


@nox.session(venv_backend="virtualenv", reuse_venv=False, requires=["environment"])
def wheel(session: nox.Session) -> None:
    """Install the built wheel apart from this checkout and run it in an empty directory; `-- DIR` keeps its tables."""
    kept = [str(Path(name).absolute()) for name in session.posargs[:1]] or ["smoke"]
    with tempfile.TemporaryDirectory() as empty:
        python(session, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", empty, ".")
        session.install("--no-deps", *map(str, Path(empty).glob("*.whl")))
        with_shared_libraries(session)
        with session.chdir(empty):
            apart = {"PYTHONPATH": None}
            session.run("dydit-bench", "flops", "--models", "DiT-S/2", "--out", "flops", env=apart)
            session.run("dydit-bench", "reproduce", "--tier", "smoke", "--out", *kept, env=apart)
