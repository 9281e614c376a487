"""The one error class that reaches a user without a traceback, and what it offers for a misspelt name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Input that cannot be used: one line with what is wrong, where, and the remedy.

    The command line prints it and exits with status 2, before any long work starts. What it quotes of other errors may
    have several lines, which become one.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(" ".join(line.strip() for line in message.splitlines()))


def first_line(error: BaseException) -> str:
    """What an error says, in one line of at most 160 characters; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Up to three of the known names that look like `name`; the first three where none does."""
    choices = list(known)
    return difflib.get_close_matches(name, choices, n=3, cutoff=0.4) or choices[:3]
