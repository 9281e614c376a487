"""What is compared, as text: `NETWORK,METHOD@SAMPLER:STEPS`, of which one part is enough.

The network is `static`, `control` (the static one, trained on for as long as the others), `dydit:LAMBDA`, or a method
of `dydit.baselines` that makes a smaller one, such as `prune:taylor:0.5`; it is `static` where it is left out. The
method is one that is put over a network, such as `fora:2`. Without a sampler the run's own is taken.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bench.generation.samplers import make_solver
from bench.models import is_factory
from dydit import DiT, DiTConfig, DyDiT, InputError, check_lambda
from dydit.baselines import METHODS, apply_method, changed_config, is_change, parse_method

STATIC, CONTROL, DYDIT = "static", "control", "dydit"
NONE = "none"
LAMBDAS = (0.9, 0.7, 0.5, 0.3)
"""Targets of the study on digits, at which a DyDiT can be compared."""

DEFAULTS = (
    STATIC,
    CONTROL,
    "dydit:0.5",
    "prune:random:0.5",
    "prune:magnitude:0.5",
    "prune:taylor:0.5",
    "prune:diff:0.5",
    "remove:1+2",
    "skip:1+2",
    "tome:0.5",
    "deepcache:3",
    "fora:2",
    "taylorseer:2:1",
    "static@ddpm:25",
    "static@ddim:25",
    "static@dpm-solver++:25",
    "dydit:0.5,fora:2",
)
"""One of each family at about half of the static model's multiply-adds over a run of 50 steps, and one put together."""
AT_SCALE = (
    STATIC,
    "dydit:0.5",
    "prune:magnitude:0.5",
    "tome:0.5",
    "deepcache:3",
    "fora:2",
    "taylorseer:2:1",
    "static@ddim:25",
    "static@dpm-solver++:25",
    "dydit:0.5,fora:2",
)
"""The same for a network of any depth with random weights, for which all criteria of pruning are alike."""


@dataclass(frozen=True)
class Entry:
    """One row of the comparison.

    Args:
        name: as it was written.
        network: what is run; or, of `own`, the factory.
        method: put over it, `NONE` for nothing.
        sampler: how it is sampled.
        steps: of the sampler.
        own: whether a factory of the user's makes the network.
    """

    name: str
    network: str
    method: str
    sampler: str
    steps: int
    own: bool = False

    @property
    def family(self) -> str:
        """What kind of saving it is."""
        if self.own:
            return "own"
        parts = [self.network.split(":")[0]] if self.network not in (STATIC, CONTROL) else []
        parts += [self.method.split(":")[0]] if self.method != NONE else []
        return " + ".join(parts) or ("sampler" if "@" in self.name else self.network)

    @property
    def trained(self) -> bool:
        """Whether its network was trained on after the static one."""
        return not self.own and self.network != STATIC


def parse_entries(
    texts: Sequence[str], models: Sequence[str], config: DiTConfig, steps: int, trained: bool = True
) -> list[Entry]:
    """The entries of a comparison, `static` first, whose images and times the others are held against.

    Args:
        texts: of entries.
        models: factories of the user's.
        config: of the static network, which all methods must fit.
        steps: of DDPM, where an entry does not say another sampler.
        trained: whether the networks have the weights of a training: then a DyDiT has one of `LAMBDAS`. Others have
            random weights, of which a `control` would be the static network again.

    Raises:
        InputError: a text that is none, a method that does not fit the network, or an entry given twice.
    """
    for text in (*texts, *models):
        if [*texts, *models].count(text) > 1:
            raise InputError(f"method {text}: given twice; leave one out")
    entries = [parse_entry(text, config, steps, trained) for text in dict.fromkeys((STATIC, *texts))]
    for model in models:
        if not is_factory(model):
            raise InputError(f"--model {model}: give package.module:factory; methods of the suite go to --methods")
        entries.append(Entry(model, model, NONE, "ddpm", steps, own=True))
    return entries


def parse_entry(text: str, config: DiTConfig, steps: int, trained: bool = True) -> Entry:
    """One entry; see `parse_entries`.

    Raises:
        InputError: as there.
    """
    parts, _, sampling = text.partition("@")
    sampler, taken = "ddpm", steps
    if sampling:
        sampler, _, number = sampling.rpartition(":")
        if not re.fullmatch("[0-9]{1,9}", number) or not sampler:
            raise InputError(f"method {text!r}: after @ stands SAMPLER:STEPS, such as ddim:25")
        taken = int(number)
    make_solver(sampler, taken)
    first, *rest = parts.split(",")
    if len(rest) > 1:
        raise InputError(f"method {text!r}: one network and one method over it; leave the others out")
    if not _is_network(first):
        if rest:
            raise InputError(f"method {text!r}: {first!r} is no network; write NETWORK,METHOD")
        first, rest = STATIC, [first]
    _check_network(text, first, config, trained)
    entry = Entry(text, first, _checked_method(rest[0]) if rest else NONE, sampler, taken)
    _check_fits(entry, config)
    return entry


def _is_network(text: str) -> bool:
    return text.split(":")[0] in (STATIC, CONTROL, DYDIT) or is_change(text)


def _check_network(text: str, network: str, config: DiTConfig, trained: bool) -> None:
    if is_change(network):
        changed_config(config, network)
        return
    name, *settings = network.split(":")
    if name == DYDIT and not trained:
        try:
            check_lambda(float("".join(settings)))
        except ValueError as error:  # InputError is one
            raise InputError(f"method {text!r}: write dydit:LAMBDA, a number above 0 and at most 1") from error
    elif name == DYDIT:
        if settings not in [[str(target)] for target in LAMBDAS]:
            raise InputError(f"method {text!r}: write dydit:LAMBDA, of {', '.join(map(str, LAMBDAS))}")
    elif settings:
        raise InputError(f"method {text!r}: {name} takes no settings")
    elif name == CONTROL and not trained:
        raise InputError(f"method {text!r}: with random weights it is the static network again; leave it out")


def _checked_method(text: str) -> str:
    name, _ = parse_method(text)
    if METHODS[name].changes:
        raise InputError(f"method {text!r}: it makes another network; write it first")
    return text


def _check_fits(entry: Entry, config: DiTConfig) -> None:
    """Put the method over a network of that shape, which takes no memory."""
    kind = DyDiT if entry.network.startswith(DYDIT) else DiT
    shape = changed_config(config, entry.network) if is_change(entry.network) else config
    with torch.device("meta"):
        network = kind(**shape.kwargs())
    apply_method(network, entry.method)
