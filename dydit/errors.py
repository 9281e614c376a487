"""The one error class that reaches a user without a traceback, and what it offers for a misspelt name."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Input that cannot be used: one line with what is wrong, where, and the remedy.

    The command line prints it and exits with status 2, before any long work starts.
    """


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Up to three of the known names that look like `name`; the first three where none does."""
    choices = list(known)
    return difflib.get_close_matches(name, choices, n=3, cutoff=0.4) or choices[:3]
