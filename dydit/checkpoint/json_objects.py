"""JSON objects, read from files and texts of users: damaged ones end in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dydit.errors import InputError, first_line


def parse_object(text: str | bytes, where: str, remedy: str) -> dict[str, Any]:
    """The object that a JSON text holds.

    Args:
        text: the text.
        where: the file it is from, for the message.
        remedy: what the user can do about a damaged one.

    Raises:
        InputError: no JSON, values nested without end, or something other than an object.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({first_line(error)}); {remedy}") from None
    if not isinstance(found, dict):
        raise InputError(f"{where}: holds a JSON {type(found).__name__}, not an object; {remedy}")
    return found


def read_object(path: Path, remedy: str) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        FileNotFoundError: no such file; what that means differs from caller to caller.
        InputError: a file that cannot be read, or whose text is none or holds no object.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    return parse_object(content, str(path), remedy)
