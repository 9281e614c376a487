"""A dataclass is the one declaration of a command's options: what is read, by which name, and what is the default."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.options import Options, Range, add_options, option, read_options, shared_values
from dydit import InputError


@dataclass(frozen=True, kw_only=True)
class Base(Options):
    out: Path = option(Path("a"), help="where")
    seed: int = option(0, help="of noise")


@dataclass(frozen=True, kw_only=True)
class Example(Base):
    """One option of every kind."""

    out: Path = Path("b")
    source: str = option(positional=True, metavar="FILE", help="what")
    rest: Sequence[int] = option((), positional=True, help="more")
    count: int = option(metavar="N", help="how many")
    scale: float = option(1.5, help="of guidance", within=Range(-2, 9))
    kind: str = option("ema", help="of weights", choices=("ema", "model"))
    label: str | None = option(None, help="none by default")
    strict: bool = option(False, help="a switch")
    flip: bool | None = option(None, help="a switch with a --no- form")
    target: float | None = option(None, name="lambda", help="has another name")
    batch_size: Sequence[int] = option((1, 8), help="several", within=Range(1, 64))
    rates: tuple[float, float, float] | None = option(
        None, metavar=("A", "B", "C"), help="exactly three", within=Range(0, 5, above=True)
    )
    ablation: Sequence[str] = option((), repeated=True, help="one each time")
    note: str = "no option"

    def __post_init__(self) -> None:
        super().__post_init__()
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--scale 10", "--scale 10.0: give a number in [-2, 9]"),
        ("--scale nan", "--scale nan: give a number in [-2, 9]"),
        ("--scale inf", "--scale inf"),
        ("--batch-size 1 65", "--batch-size 65: give a whole number from 1 to 64"),
        (f"--batch-size {10**300}", "--batch-size 1000000"),
        ("--rates 1 0 1", "--rates 0.0: give a number in (0, 5]"),
        ("--kind x", "--kind x: give ema or model"),
        ("--label a\0b", "--label a\0b: give a text without NUL"),
        ("--out a\0b", "--out a\0b: give a text without NUL"),
    ],
)
def test_a_value_outside_of_its_limits_is_refused(arguments: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read("x", "--count", "3", *arguments.split(" "))
    assert str(caught.value).startswith(message) and len(str(caught.value)) < 200


def test_limits_belong_to_the_numbers_that_they_name() -> None:
    read("x", "--count", "3", "--scale", "0", "--batch-size", "1", "64", "--rates", "1e-9", "5", "1")
    with pytest.raises(InputError, match="--scale -3"):
        Example(source="x", count=3, scale=-3)  # whoever makes it


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
