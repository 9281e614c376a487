"""A dataclass is the one declaration of a command's options: what is read, by which name, and what is the default."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.options import add_options, option, read_options, shared_values
from dydit import InputError


@dataclass(frozen=True, kw_only=True)
class Base:
    out: Path = option(Path("a"), help="where")
    seed: int = option(0, help="of noise")


@dataclass(frozen=True, kw_only=True)
class Example(Base):
    """One option of every kind."""

    out: Path = Path("b")
    source: str = option(positional=True, metavar="FILE", help="what")
    rest: Sequence[int] = option((), positional=True, help="more")
    count: int = option(metavar="N", help="how many")
    scale: float = option(1.5, help="of guidance")
    label: str | None = option(None, help="none by default")
    strict: bool = option(False, help="a switch")
    flip: bool | None = option(None, help="a switch with a --no- form")
    target: float | None = option(None, name="lambda", help="has another name")
    batch_size: Sequence[int] = option((1, 8), help="several")
    rates: tuple[float, float, float] | None = option(None, metavar=("A", "B", "C"), help="exactly three")
    ablation: Sequence[str] = option((), repeated=True, help="one each time")
    note: str = "no option"

    def __post_init__(self) -> None:
        if self.scale < 0:
            raise InputError("scale: below zero")


def parser(kind: type = Example) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    add_options(made, kind)
    return made


def read(*arguments: str) -> Example:
    return read_options(parser().parse_args(arguments), Example)


def test_what_is_not_given_has_the_default_of_its_field() -> None:
    assert read("x", "--count", "3") == Example(source="x", count=3)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--out c", {"out": Path("c")}),
        ("--seed 4", {"seed": 4}),
        ("--scale 2", {"scale": 2.0}),
        ("--label y", {"label": "y"}),
        ("--strict", {"strict": True}),
        ("--flip", {"flip": True}),
        ("--no-flip", {"flip": False}),
        ("--lambda 0.5", {"target": 0.5}),
        ("--batch-size 2", {"batch_size": (2,)}),
        ("--batch-size 2 3", {"batch_size": (2, 3)}),
        ("--rates 1 2 3", {"rates": (1.0, 2.0, 3.0)}),
        ("--ablation p --ablation q", {"ablation": ("p", "q")}),
    ],
)
def test_values_are_read_by_the_annotation(arguments: str, expected: dict[str, Any]) -> None:
    assert read("x", "--count", "3", *arguments.split()) == Example(source="x", count=3, **expected)
    assert read("x", "7", "8", "--count", "3").rest == (7, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("x", "required: --count"),
        ("--count 3", "required: FILE"),
        ("x --count three", "--count: invalid int"),
        ("x --count 3 --rates 1 2", "--rates: expected 3"),
        ("x --count 3 --batch-size", "--batch-size: expected at least one"),
        ("x --count 3 --target 0.5", "unrecognized arguments: --target"),
        ("x --count 3 --note y", "unrecognized arguments: --note"),
    ],
)
def test_what_no_field_allows_is_refused(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read(*arguments.split())
    assert message in capsys.readouterr().err


def test_a_dataclass_checks_its_values() -> None:
    with pytest.raises(InputError, match="below zero"):
        read("x", "--count", "3", "--scale", "-1")


def test_help_names_every_default_and_required_options_come_first() -> None:
    text = parser().format_help()
    assert text.index("--count N") < text.index("--out OUT")
    for shown in ("where (default b)", "of noise (default 0)", "of guidance (default 1.5)", "several (default 1 8)"):
        assert shown in text
    for bare in ("none by default\n", "a switch\n", "how many\n", "one each time\n"):
        assert bare in text
    assert "--rates A B C" in text and "note" not in text


def test_a_subclass_changes_the_default_alone() -> None:
    assert "where (default a)" in parser(Base).format_help()
    assert Base().out == Path("a") and read("x", "--count", "3").out == Path("b")


def test_options_are_taken_over_by_name() -> None:
    assert shared_values(Example(source="x", count=3, seed=5), Base) == {"out": Path("b"), "seed": 5}
