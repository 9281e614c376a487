"""TOML files of the project: their tables, and dataclasses checked against what a table says."""

from __future__ import annotations

import dataclasses
import math
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

from dydit import InputError

Kind = TypeVar("Kind")


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file of the repository.

    Raises:
        InputError: no such file, or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); restore it from the repository") from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and UnicodeDecodeError are the former
        raise InputError(f"{path}: not TOML ({error}); correct it") from error


def from_table(kind: Callable[..., Kind], name: str, table: Any, where: str) -> Kind:
    """A dataclass whose field `name` is the name of a table and whose other fields are its keys.

    A field's annotation decides what its key holds: text, a whole number, a boolean, a list (`tuple[X, ...]`) or a
    table (`Mapping[str, X]`) of these. A field with a default may be left out.

    Args:
        kind: the dataclass.
        name: of the table.
        table: what stands there.
        where: opens the message of what is wrong.

    Raises:
        InputError: no table, an unknown key, a value of another type, or a key that is missing or empty.
    """
    if not isinstance(table, dict):
        raise InputError(f"{where}: {table!r} is no table; write it as [{name}]")
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.name != "name"}  # type: ignore[arg-type]
    if unknown := sorted(table.keys() - fields.keys()):
        raise InputError(f"{where}: unknown key {unknown[0]}; known are {', '.join(fields)}")
    values = {key: _checked(f"{where}: {key}", hints[key], value) for key, value in table.items()}
    required = [key for key, field in fields.items() if field.default is dataclasses.MISSING]
    if missing := [key for key in required if values.get(key) in (None, "", (), {})]:
        raise InputError(f"{where}: {missing[0]} is missing or empty; there must be {', '.join(required)}")
    return kind(name=name, **values)


def _checked(where: str, annotation: Any, value: Any) -> Any:
    """The value as the annotation has it."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        (annotation,) = (part for part in parts if part is not types.NoneType)
        return _checked(where, annotation, value)
    expected = {tuple: list, Mapping: dict}.get(origin, annotation) if origin else annotation
    if type(value) is not expected or (expected is float and not math.isfinite(value)):
        raise InputError(f"{where} = {value!r}; it must be of type {expected.__name__}")
    if origin is tuple:
        return tuple(_checked(where, parts[0], item) for item in value)
    if origin is Mapping:
        return {key: _checked(f"{where}.{key}", parts[1], item) for key, item in value.items()}
    return value
