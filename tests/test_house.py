"""The shape of the house: small folders, modules and functions, a charter for each room, documents that point right."""

from __future__ import annotations

import ast
import functools
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("bench", "dydit")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
ROOMS = [path.parent for path in MODULES if path.name == "__init__.py"]
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "reference_stats").rglob("*.md")),
    ROOT / "results" / "README.md",
]

Function = ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def tree(module: Path) -> ast.Module:
    return ast.parse(module.read_text(encoding="utf-8"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def charter(room: Path) -> str:
    """The first line of the docstring of a room."""
    return (ast.get_docstring(tree(room / "__init__.py")) or "").partition("\n")[0]


def test_a_folder_holds_at_most_ten_modules() -> None:
    modules = Counter(name(module.parent) for module in MODULES if module.name != "__init__.py")
    assert {folder: count for folder, count in modules.items() if count > 10} == {}


def test_a_module_has_at_most_400_lines() -> None:
    lines = {name(module): len(module.read_text(encoding="utf-8").splitlines()) for module in MODULES}
    assert {module: count for module, count in lines.items() if count > 400} == {}


def test_a_function_has_at_most_60_lines() -> None:
    def functions() -> Iterator[tuple[str, int]]:
        for module in MODULES:
            for node in ast.walk(tree(module)):
                if isinstance(node, Function):
                    assert node.end_lineno is not None
                    yield f"{name(module)}: {node.name}", node.end_lineno - node.lineno + 1

    assert {function: lines for function, lines in functions() if lines > 60} == {}


def test_a_module_imports_at_most_ten_others() -> None:
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    imports = {module: len(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    assert len(imports) == len(MODULES)
    assert {module: count for module, count in imports.items() if count > 10} == {}


def test_every_folder_is_a_room_with_a_charter() -> None:
    assert {name(module.parent) for module in MODULES} == {name(room) for room in ROOMS}
    assert [name(room) for room in ROOMS if not charter(room).endswith(".")] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_of_tests_mirrors_a_room(package: str) -> None:
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests" / package).rglob("*.py")}
    assert folders - {room.relative_to(ROOT) for room in ROOMS} == set()


def test_one_module_knows_where_shipped_data_lie() -> None:
    """A path of its own in another module would hold in a checkout, and break where the project is installed."""

    def paths(module: Path) -> Iterator[str]:
        prose = {id(node.value) for node in ast.walk(tree(module)) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.Constant) and id(node) not in prose and isinstance(node.value, str):
                yield from re.findall(r"^reference_stats\b", node.value)
            if isinstance(node, ast.Name) and node.id == "__file__":
                yield node.id

    assert [name(module) for module in MODULES if any(paths(module))] == ["bench/records/places.py"]


def rooms_in_order() -> Iterator[Path]:
    """The rooms from top to bottom, in the order of imports that pyproject.toml declares."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for contract in settings["tool"]["importlinter"]["contracts"]:
        for package in contract.get("containers", []):
            yield ROOT / package
            for layer in contract["layers"]:
                for room in re.split(r"\s*[|:]\s*", layer):
                    folder = ROOT / package / room
                    yield from (inner for inner in ROOMS if inner == folder or folder in inner.parents)


def test_the_map_in_contributing_shows_every_room() -> None:
    rows = [f"| `{name(room)}/` | {charter(room)} |" for room in rooms_in_order()]
    assert len(rows) == len(ROOMS)
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown = [line for line in text.splitlines() if re.match(r"\| `(bench|dydit)/", line)]
    assert shown == rows, "CONTRIBUTING.md must have these rows:\n" + "\n".join(rows)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_documents_point_to_files_that_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    # Paths from the root, as they stand in code; what is made when it is needed has capitals or lies in results/local.
    quoted = re.findall(r"`((?:bench|dydit|tests|results|reference_stats|scripts|\.ci|\.github)/[\w./-]*)`", text)
    wanted = {path: document.parent / path for path in links} | {
        path: ROOT / path for path in quoted if not re.match(r"results/(local|report\.html|.*[A-Z]{2})", path)
    }
    assert [path for path, file in wanted.items() if not file.exists()] == []
