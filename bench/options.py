"""Options declared once: the fields of a dataclass, from which the parser of a command line is built.

Built on argparse, because a bare machine with torch, numpy and pandas must be able to run the latency harness.
"""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from typing import Any, TypeVar, Union, get_args, get_origin

Kind = TypeVar("Kind")
_KEY = "option"


@dataclass(frozen=True)
class _Declared:
    """How a field stands on the command line."""

    help: str
    name: str | None
    metavar: str | None
    positional: bool


def option(
    default: Any = MISSING, *, help: str, name: str | None = None, metavar: str | None = None, positional: bool = False
) -> Any:
    """A dataclass field that is an option of a command, too.

    Its annotation decides how it is read: `bool` is a switch, `bool | None` a switch with a `--no-` form,
    `tuple[X, ...]` takes one or more values, `tuple[X, X, X]` exactly three, `X | None` one value of type X.

    Args:
        default: of the field; without one the option must be given.
        help: what stands in `--help`; it names the default where that helps.
        name: on the command line, without the dashes, where it is not the field's.
        metavar: how a value is called in `--help`.
        positional: an argument without dashes.
    """
    return dataclasses.field(default=default, metadata={_KEY: _Declared(help, name, metavar, positional)})


def add_options(parser: argparse.ArgumentParser, kind: type, defaults: Mapping[str, Any] | None = None) -> None:
    """Declare every field of a dataclass that was made by `option`.

    Args:
        parser: of a command.
        kind: a dataclass.
        defaults: in place of a field's own, by the field's name.
    """
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        declared: _Declared | None = field.metadata.get(_KEY)
        if declared is None:
            continue
        default = (defaults or {}).get(field.name, field.default)
        settings: dict[str, Any] = {"help": declared.help, **_reading(hints[field.name])}
        if declared.positional:
            parser.add_argument(field.name, metavar=declared.metavar, **settings)
            continue
        if "action" not in settings or declared.metavar:
            settings["metavar"] = declared.metavar
        if default is MISSING:
            settings["required"] = True
        else:
            settings["default"] = default
        flag = "--" + (declared.name or field.name.replace("_", "-"))
        parser.add_argument(flag, dest=field.name, **settings)


def read_options(given: argparse.Namespace, kind: Callable[..., Kind]) -> Kind:
    """The dataclass with the values of a parsed command line.

    Raises:
        InputError: a value that the dataclass refuses.
    """
    values = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if _KEY in field.metadata:
            value = getattr(given, field.name)
            values[field.name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def _reading(annotation: Any) -> dict[str, Any]:
    """What argparse must know to read a value of this type."""
    if annotation is bool:
        return {"action": "store_true"}
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        (inner,) = (part for part in parts if part is not type(None))
        return {"action": argparse.BooleanOptionalAction} if inner is bool else _reading(inner)
    if origin in (tuple, Sequence):
        count: str | int = "+" if origin is not tuple or Ellipsis in parts else len(parts)
        return {"type": parts[0], "nargs": count}
    return {"type": annotation}
