"""The lock, from which continuous integration installs, and what the project says that it needs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
ASKED = [*PROJECT["dependencies"], *EXTRAS["tensorboard"], *EXTRAS["dev"]]
LIBRARIES = [each for each in map(Requirement, ASKED) if each.name != PROJECT["name"]]


def test_every_library_has_an_oldest_version() -> None:
    assert [str(each) for each in LIBRARIES if [part.operator for part in each.specifier] != [">="]] == []


def test_the_lock_has_a_version_with_checksums_of_every_library_but_torch() -> None:
    locked = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    entries = [Requirement(re.sub(r"\\\n.*", "", each, flags=re.DOTALL)) for each in re.split(r"\n(?=\S)", locked)]
    assert all("--hash=sha256:" in each for each in re.split(r"\n(?=\S)", locked))
    versions = {canonicalize_name(each.name): str(each.specifier).removeprefix("==") for each in entries}
    assert not {"torch", "torchvision", "triton"} & versions.keys()  # their build depends on the machine
    for each in LIBRARIES:
        if each.name not in ("torch", "torchvision"):
            assert each.specifier.contains(versions[canonicalize_name(each.name)]), each


def test_the_actions_of_every_workflow_are_pinned_by_commit() -> None:
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    used = [line for path in workflows for line in re.findall(r"uses: (.*)", path.read_text(encoding="utf-8"))]
    assert len(workflows) == 2 and used
    assert [line for line in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", line)] == []
