"""The one error class that reaches a user without a traceback, what it offers for a misspelt name, and a check."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import torch
from torch import Tensor


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


def check_indices(name: str, values: Tensor, count: int, limit: int, meaning: str) -> None:
    """Refuse timesteps or labels that are not whole numbers (count,) from 0 to `limit` - 1.

    The numbers themselves are looked at on the CPU alone, since reading those of a GPU would make it wait in every
    step, and not while a compiler or a tracer stands in for the computation.

    Args:
        name: of what is checked.
        values: to be checked.
        count: images in the batch.
        limit: numbers that there are.
        meaning: which these are, in words.

    Raises:
        InputError: another shape or data type, or a number out of range.
    """
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise InputError(f"{name} are {values.dtype}; give whole numbers, {meaning}")
    if tuple(values.shape) != (count,):
        raise InputError(f"{name} of shape {tuple(values.shape)}; give one for each image, ({count},)")
    tracing = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if tracing or type(values) is not Tensor or values.device.type != "cpu" or not count:
        return
    lowest, highest = int(values.min()), int(values.max())
    if lowest < 0 or highest >= limit:
        raise InputError(f"{name} from {lowest} to {highest}; give {meaning}")
