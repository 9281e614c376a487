"""JSON objects, read from files and texts of users: damaged ones end in one line.

JSON knows no NaN and no infinity, and leaves open what a key means that stands twice: both are refused.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from dydit.errors import InputError, first_line


def parse_object(text: str | bytes, where: str, remedy: str, *, finite: bool = True) -> dict[str, Any]:
    """The object that a JSON text holds.

    Args:
        text: the text.
        where: the file it is from, for the message.
        remedy: what the user can do about a damaged one.
        finite: whether every number must be; a recipe may have a limit that is infinite.

    Raises:
        InputError: no JSON, values nested without end, a number that is not finite, a key that stands twice, or
            something other than an object.
    """
    number, constant = (_finite, _refuse) if finite else (None, None)
    try:
        found = json.loads(text, parse_float=number, parse_constant=constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({first_line(error)}); {remedy}") from None
    if not isinstance(found, dict):
        raise InputError(f"{where}: holds a JSON {type(found).__name__}, not an object; {remedy}")
    return found


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        _refuse(digits[:20])
    return number


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"the number {constant}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)[:60]!r} twice")
    return found


def read_object(path: Path, remedy: str, *needed: str) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: the file.
        remedy: what the user can do about a damaged one.
        needed: keys that the caller reads.

    Raises:
        FileNotFoundError: no such file; what that means differs from caller to caller.
        InputError: a file that cannot be read, whose text is none or holds no object, or an object without a key.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    found = parse_object(content, str(path), remedy)
    if missing := [key for key in needed if key not in found]:
        raise InputError(f"{path}: {missing[0]} is missing; {remedy}")
    return found
