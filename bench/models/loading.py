"""From `package.module:factory` to a checked network: imported, made, and called once on two noisy images."""

from __future__ import annotations

import importlib
import os
import re
import sys
from typing import Any

import torch
from torch import Tensor, nn

from bench.models.candidate import RAISED, Candidate, OwnShape, check_output, in_one_line
from dydit import DiT, InputError, first_line

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
PROBED = 999
"""The timestep of the call that checks a network."""


def is_factory(text: str | None) -> bool:
    """Whether a text names a factory, and not a model of the papers, whose names hold no colon."""
    return text is not None and ":" in text


def load_candidate(text: str) -> Candidate:
    """Import a factory, call it, and check the network that it returns; modules are found from the working directory.

    Raises:
        InputError: a text of another form, a module or factory that is not there or raises, or a network that does not
            fit; see `candidate_of`.
    """
    if not _FACTORY.fullmatch(text):
        raise InputError(f"model {text!r}: give package.module:factory, such as examples.every_other_block:model")
    module_name, _, factory_name = text.partition(":")
    if os.getcwd() not in sys.path and "" not in sys.path:  # the installed command does not look there by itself
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except RAISED as error:
        raise InputError(
            f"model {text}: cannot import {module_name} ({type(error).__name__}: {first_line(error)}); run from the "
            "directory that holds it, or install it"
        ) from None
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        raise InputError(f"model {text}: {module_name} has no function {factory_name}")
    try:
        with in_one_line("the factory"):
            made = factory()
    except InputError as error:
        raise InputError(f"model {text}: {error}") from None
    return candidate_of(made, text)


def candidate_of(module: Any, name: str) -> Candidate:
    """Check a module against the protocol; its state over steps is a fresh one afterwards.

    Raises:
        InputError: no module, an attribute that is missing or no whole number of at least 1, or a call that raises,
            changes its inputs, or returns another shape than (N, C or 2C, S, S), or numbers that are not finite.
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"model {name}: the factory returned a {type(module).__name__}; it must be a torch.nn.Module")
    said = module.config if isinstance(module, DiT) else module
    sizes = [_size(said, attribute, name) for attribute in ("in_channels", "input_size", "num_classes")]
    module.eval().requires_grad_(False)
    channels, side, classes = sizes
    output = _probed(Candidate(name, module, OwnShape(channels, side, classes, False)))
    if not torch.isfinite(output).all():
        raise InputError(f"model {name}: a call on standard normal noise returned NaN or infinity")
    return Candidate(name, module, OwnShape(channels, side, classes, output.shape[1] == 2 * channels))


def _size(said: Any, attribute: str, name: str) -> int:
    value = getattr(said, attribute, None)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"model {name}: attribute {attribute} is {value!r}; it must be a whole number of at least 1")
    return value


@torch.no_grad()
def _probed(candidate: Candidate) -> Tensor:
    shape = candidate.config
    x = torch.randn(
        2, shape.in_channels, shape.input_size, shape.input_size, generator=torch.Generator().manual_seed(0)
    )
    given = (x, torch.full((2,), PROBED), torch.tensor([0, shape.num_classes]))
    copies = [each.clone() for each in given]
    candidate.begin_run([PROBED])
    called = f"a call on x {tuple(x.shape)}, t (2,) and labels 0 and {shape.num_classes}, the null label,"
    with in_one_line(f"model {candidate.name}: {called}"):
        output = candidate.module(*copies)
    output = check_output(f"model {candidate.name}", output, x)
    for name, mine, its in zip(("x", "t", "y"), given, copies, strict=True):
        if not torch.equal(mine, its):  # a sampler goes on with them
            raise InputError(f"model {candidate.name}: a call changed its input {name}; it must leave it as it is")
    return output
