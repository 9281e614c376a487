"""Options declared once: fields of dataclasses, from which the parser of a command line is built.

The options of a command are a frozen dataclass, keywords only, whose fields are made by `option`. What several commands
share stands in the base classes below. A subclass that repeats an inherited field with another default changes the
default alone: help, name and metavar stay.

Built on argparse, because a bare machine with torch, numpy and pandas must be able to run the latency harness.
"""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

Kind = TypeVar("Kind")
_KEY = "option"


@dataclass(frozen=True)
class Declaration:
    """How a field stands on the command line; the arguments are those of `option`."""

    help: str
    name: str | None
    metavar: str | tuple[str, ...] | None
    positional: bool
    repeated: bool


def option(
    default: Any = MISSING,
    *,
    help: str,
    name: str | None = None,
    metavar: str | tuple[str, ...] | None = None,
    positional: bool = False,
    repeated: bool = False,
) -> Any:
    """A field of a dataclass that is an option of a command, too.

    Its annotation decides how it is read: `bool` is a switch, `bool | None` a switch with a `--no-` form, `Sequence[X]`
    takes one or more values, `tuple[X, X, X]` exactly three, and `X` or `X | None` one value of type X.

    Args:
        default: of the field; without one the option must be given.
        help: what stands in `--help`, where the default is added unless it is None, False or empty.
        name: on the command line, without the dashes, where it is not the field's own.
        metavar: how a value is called in `--help`, one name per value of a tuple.
        positional: an argument without dashes.
        repeated: a `Sequence[X]` of which every occurrence of the option adds one value.
    """
    declaration = Declaration(help, name, metavar, positional, repeated)
    return dataclasses.field(default=default, metadata={_KEY: declaration})


def add_options(parser: argparse.ArgumentParser, kind: type) -> None:
    """Declare every field of a dataclass that was made by `option`, the required ones first.

    Defaults stay with the dataclass: what was not given is absent from what the parser returns.
    """
    hints = typing.get_type_hints(kind)
    for field, declared in sorted(declarations(kind), key=lambda declared: declared[0].default is not MISSING):
        settings = _reading(hints[field.name], declared.repeated)
        if declared.metavar is not None:
            settings["metavar"] = declared.metavar
        settings |= {"help": _help(declared.help, field.default), "default": argparse.SUPPRESS}
        if declared.positional:
            optional = {"nargs": "*"} if field.default is not MISSING else {}
            parser.add_argument(field.name, **(settings | optional))
        else:
            flag = "--" + (declared.name or field.name).replace("_", "-")
            parser.add_argument(flag, dest=field.name, required=field.default is MISSING, **settings)


def read_options(parsed: argparse.Namespace, kind: Callable[..., Kind]) -> Kind:
    """The dataclass with the values of a parsed command line; what was not given has the default of its field.

    Raises:
        InputError: a value that the dataclass refuses.
    """
    values = {name: value for name, value in vars(parsed).items() if name in _names(kind)}
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def shared_values(options: Any, kind: Any) -> dict[str, Any]:
    """The values of those fields of `options` that the dataclass `kind` has, too: arguments to make it of."""
    return {name: getattr(options, name) for name in _names(type(options)) if name in _names(kind)}


def declarations(kind: type) -> Iterator[tuple[dataclasses.Field[Any], Declaration]]:
    """The fields of a dataclass that are options, each with its own or inherited declaration."""
    for field in dataclasses.fields(kind):
        for base in kind.__mro__:
            declared = base.__dict__.get("__dataclass_fields__", {}).get(field.name)
            if declared is not None and _KEY in declared.metadata:
                yield field, declared.metadata[_KEY]
                break


def _names(kind: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _help(text: str, default: Any) -> str:
    if default is MISSING or default is None or default is False or default == ():
        return text
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
    return f"{text} (default {shown})"


def _reading(annotation: Any, repeated: bool) -> dict[str, Any]:
    """What argparse must know to read a value of this type."""
    if annotation is bool:
        return {"action": "store_true"}
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        (inner,) = (part for part in parts if part is not type(None))
        return {"action": argparse.BooleanOptionalAction} if inner is bool else _reading(inner, repeated)
    if origin is Sequence:
        return {"type": parts[0], **({"action": "append"} if repeated else {"nargs": "+"})}
    if origin is tuple:
        return {"type": parts[0], "nargs": len(parts)}
    return {"type": annotation}


# What several commands share


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Where a command writes."""

    out: Path = option(Path("results/local"), help="directory for the results")


@dataclass(frozen=True, kw_only=True)
class StrictOptions:
    """Whether verdicts decide the exit status."""

    strict: bool = option(False, help="exit with status 1 when a verdict is `deviates`")


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Where files lie that are not fetched."""

    data_root: Path | None = option(None, metavar="DIR", help="directory of data sets and downloaded files")


@dataclass(frozen=True, kw_only=True)
class WeightsOptions:
    """How the weights of a checkpoint are read."""

    model: str | None = option(None, metavar="NAME", help="such as DyDiT-XL/2, for files that do not name their model")
    resolution: int | None = option(
        None, metavar="PIXELS", help="of a named model's images (default: 256, or that of its data set)"
    )
    weights: str = option("ema", help="of a training checkpoint: ema or model")


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions(WeightsOptions):
    """A trained network."""

    checkpoint: str = option(metavar="FILE", help="file or published name, such as dydit-xl-2-lambda-0.5")


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Where a command computes."""

    device: str = option("cpu", help="cpu or cuda")


@dataclass(frozen=True, kw_only=True)
class ProcessOptions(DeviceOptions):
    """Where each process of a run computes. Under torchrun, cuda is the GPU of the process's local rank."""

    threads: int = option(1, help="CPU threads per process; their number decides rounding")


@dataclass(frozen=True, kw_only=True)
class DtypeOptions:
    """The floating-point type of a network."""

    dtype: str = option("fp32", help="of the network: fp32 or bf16")


@dataclass(frozen=True, kw_only=True)
class Tf32Options:
    """The arithmetic of float32 products."""

    tf32: bool = option(False, help="float32 products on a GPU take TF32 inputs, as in the papers")


@dataclass(frozen=True, kw_only=True)
class AutoencoderOptions:
    """The autoencoder of latents."""

    vae: str | None = option(
        None,
        metavar="PATH",
        help="of latents: sd-vae-ft-ema (default), sd-vae-ft-mse, or a directory in diffusers' layout",
    )


@dataclass(frozen=True, kw_only=True)
class ExtractorOptions:
    """Weights of a feature extractor that are not the published ones, or lie elsewhere."""

    extractor_weights: Path | None = option(
        None, name="weights", metavar="FILE", help="of the extractor, if not where it looks for them"
    )
    weights_sha256: str | None = option(
        None, metavar="HEX", help="accept extractor weights of this SHA-256, not the published ones"
    )
