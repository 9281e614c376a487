"""Methods by name, as text: a name and its settings between colons, such as `tome:0.2` or `taylorseer:4:2`.

Some change the network, which may be fine-tuned and saved then; the others are put over a network as it is. Both can be
put together: the network that one of the first kind leaves, or a trained DyDiT, under one of the second kind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from dydit.baselines.caching import BranchCache, ReusedBlocks
from dydit.baselines.depth import SkippedBlocks, remove_layers, shallower_config
from dydit.baselines.importance import CRITERIA, Calibration
from dydit.baselines.merging import MergingBlocks
from dydit.baselines.method import Method, StepBlocks, Walk
from dydit.baselines.pruning import prune, pruned_config
from dydit.config import DiTConfig
from dydit.dit import DiT
from dydit.errors import InputError, nearest
from dydit.routing import Routing


@dataclass(frozen=True)
class MethodKind:
    """A method of the registry.

    Args:
        usage: how it is written.
        paper: where it comes from.
        least: number of settings that must be given.
        most: number of settings that may be.
        changes: whether it makes another network, which may be trained.
    """

    usage: str
    paper: str
    least: int
    most: int
    changes: bool = False


METHODS = {
    "none": MethodKind("none", "the network as it is, on the blocks that all methods run on", 0, 0),
    "prune": MethodKind(
        f"prune:CRITERION:RATIO, a criterion of {', '.join(CRITERIA)}", "arXiv 1611.06440, 2305.10924", 2, 2, True
    ),
    "remove": MethodKind("remove:LAYERS, such as remove:1+3", "arXiv 2412.01199", 1, 1, True),
    "tome": MethodKind("tome:RATIO of tokens merged", "arXiv 2210.09461, 2303.17604", 1, 1),
    "skip": MethodKind("skip:LAYERS/LAYERS..., step by step, such as skip:/1+2", "arXiv 2412.01199", 1, 1),
    "deepcache": MethodKind("deepcache:INTERVAL, or deepcache:INTERVAL:SHALLOW", "arXiv 2312.00858", 1, 2),
    "fora": MethodKind("fora:INTERVAL", "arXiv 2407.01425", 1, 1),
    "taylorseer": MethodKind("taylorseer:INTERVAL:ORDER", "arXiv 2503.06923", 2, 2),
}
"""Methods by the first part of their text."""


def apply_method(network: DiT, text: str, routing: Routing | None = None) -> Method:
    """A network under a method that does not change it; every call makes one with a state of its own.

    Args:
        network: a DiT or DyDiT.
        text: of the method.
        routing: masks for a DyDiT, see `Method`.

    Raises:
        InputError: no such method, settings that it does not take, or a network that it does not fit.
    """
    name, settings = parse_method(text)
    if METHODS[name].changes:
        raise InputError(f"method {text}: it makes another network; change the network first, and train it")
    make: dict[str, Callable[[], Walk | StepBlocks]] = {
        "none": Walk,
        "tome": lambda: MergingBlocks(_number(text, settings[0])),
        "skip": lambda: SkippedBlocks([_layers(text, part) for part in settings[0].split("/")]),
        "deepcache": lambda: ReusedBlocks(*(_whole(text, setting) for setting in settings)),
        "fora": lambda: BranchCache(_whole(text, settings[0])),
        "taylorseer": lambda: BranchCache(*(_whole(text, setting) for setting in settings)),
    }
    part = make[name]()
    if isinstance(part, Walk):
        return Method(network, walk=part, routing=routing)
    return Method(network, blocks=part, routing=routing)


def change_network(network: DiT, text: str, calibration: Calibration | None = None) -> DiT:
    """The smaller network that a method makes, with the weights that it keeps.

    Raises:
        InputError: as `apply_method`, or a criterion that needs calibration images and has none.
    """
    name, settings = parse_method(text)
    if not METHODS[name].changes:
        raise InputError(f"method {text}: it leaves the network as it is; put it over the network")
    if name == "remove":
        return remove_layers(network, _layers(text, settings[0]))
    return prune(network, settings[0], _number(text, settings[1]), calibration)


def changed_config(config: DiTConfig, text: str) -> DiTConfig:
    """The configuration of the network that `change_network` makes of one of `config`.

    Raises:
        InputError: as `change_network`.
    """
    name, settings = parse_method(text)
    if name == "remove":
        return shallower_config(config, _layers(text, settings[0]))
    return pruned_config(config, _number(text, settings[1])) if name == "prune" else dataclasses.replace(config)


def is_change(text: str) -> bool:
    """Whether a text names a method that makes another network."""
    name = text.split(":")[0]
    return name in METHODS and METHODS[name].changes


def parse_method(text: str) -> tuple[str, list[str]]:
    """The name and the settings of a method.

    Raises:
        InputError: no such method, or another number of settings than it takes.
    """
    name, *settings = text.split(":")
    if name not in METHODS:
        raise InputError(f"unknown method {text!r}; nearest names: {', '.join(nearest(name, METHODS))}")
    kind = METHODS[name]
    if not kind.least <= len(settings) <= kind.most:
        raise InputError(f"method {text!r}: it is written {kind.usage}")
    return name, settings


def _number(text: str, setting: str) -> float:
    try:
        return float(setting)
    except ValueError:
        raise InputError(f"method {text!r}: {setting!r} is no number") from None


def _whole(text: str, setting: str) -> int:
    try:
        return int(setting)
    except ValueError:
        raise InputError(f"method {text!r}: {setting!r} is no whole number") from None


def _layers(text: str, setting: str) -> list[int]:
    return [_whole(text, layer) for layer in setting.split("+") if layer]
