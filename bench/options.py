"""Options declared once: fields of dataclasses, from which the parser of a command line is built.

The options of a command are a frozen dataclass below `Options`, keywords only, whose fields are made by `option`. What
several commands share stands in the base classes below. A subclass that repeats an inherited field with another default
changes the default alone: help, name, metavar and limits stay.

Every number has limits, which are checked when the dataclass is made: before any work, and whoever makes it.

Built on argparse, because a bare machine with torch, numpy and pandas must be able to run the latency harness.
"""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, Union, get_args, get_origin

Kind = TypeVar("Kind")
_KEY = "option"


class Range(NamedTuple):
    """The numbers that an option takes: from `least`, which `above` excludes, to `most`; never NaN."""

    least: float
    most: float
    above: bool = False

    def __contains__(self, number: object) -> bool:
        """Whether a number is one of them."""
        assert isinstance(number, int | float)
        return self.least <= number <= self.most and not (self.above and number == self.least)

    def whole(self, value: Any, name: str) -> int:
        """A whole number that a file holds, unchanged.

        Raises:
            ValueError: it is none, or none of these; the message calls it `name`.
        """
        if type(value) is not int or value not in self:
            raise ValueError(f"{name} is {str(value)[:20]!r}; it must be {self.words(whole=True)}")
        return value

    def words(self, whole: bool) -> str:
        """What it admits, for a message."""
        if whole:
            return f"a whole number from {self.least:,} to {self.most:,}"
        return f"a number in {'(' if self.above else '['}{self.least:,}, {self.most:,}]"


IMAGES = Range(1, 10_000_000)
"""Drawn in one run; ImageNet has 1.3 million, the paper's rows 50,000."""
BATCH = Range(1, 65_536)
"""Images computed at once, or kept in one file."""
SAMPLER_STEPS = Range(1, 1000)
"""Of the noise schedule that the networks are trained on."""
STEPS = Range(1, 1_000_000_000)
"""Of an optimiser, and what is counted in them."""
SEED = Range(0, 2**63 - 1)
"""What every generator takes, and no two of which draw the same numbers."""
PIXELS = Range(1, 16_384)
"""Side of an image."""
CHANNELS = Range(1, 4)
"""Of an image, or of a latent."""
THREADS = Range(1, 1024)
"""Or processes; more than any machine has cores, and a system may refuse to start them."""
SECONDS = Range(0, 1_000_000)
SHARE = Range(0, 1)
LAMBDA = Range(0, 1, above=True)
"""A target FLOPs ratio."""


@dataclass(frozen=True)
class Declaration:
    """How a field stands on the command line; the arguments are those of `option`."""

    help: str
    name: str | None
    metavar: str | tuple[str, ...] | None
    positional: bool
    repeated: bool
    within: Range | None
    choices: tuple[str, ...]


def option(
    default: Any = MISSING,
    *,
    help: str,
    name: str | None = None,
    metavar: str | tuple[str, ...] | None = None,
    positional: bool = False,
    repeated: bool = False,
    within: Range | None = None,
    choices: tuple[str, ...] = (),
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
        within: the numbers that it takes, each of them where it takes several.
        choices: the words that it takes; any without.
    """
    declaration = Declaration(help, name, metavar, positional, repeated, within, choices)
    return dataclasses.field(default=default, metadata={_KEY: declaration})


def add_options(parser: argparse.ArgumentParser, kind: type) -> None:
    """Declare every field of a dataclass that was made by `option`, the required ones first.

    Defaults stay with the dataclass: what was not given is absent from what the parser returns.
    """
    hints = typing.get_type_hints(kind)
    for field, declared in sorted(declarations(kind), key=lambda each: each[0].default is not MISSING):
        settings = _reading(hints[field.name], declared.repeated)
        if declared.metavar is not None:
            settings["metavar"] = declared.metavar
        settings |= {"help": _help(declared.help, field.default), "default": argparse.SUPPRESS}
        if declared.positional:
            optional = {"nargs": "*"} if field.default is not MISSING else {}
            parser.add_argument(field.name, **(settings | optional))
        else:
            flag = _flag(field, declared)
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


def _refusal(declared: Declaration, value: Any) -> str | None:
    """What the declaration of an option admits, in words, where it does not admit this value; None where it does."""
    if isinstance(value, str | Path) and "\0" in str(value):
        return "a text without NUL"
    if declared.choices and value is not None and value not in declared.choices:
        return " or ".join(declared.choices)
    if declared.within is not None and isinstance(value, int | float) and value not in declared.within:
        return declared.within.words(whole=isinstance(value, int))
    return None


def _flag(field: dataclasses.Field[Any], declared: Declaration) -> str:
    """How an option is called on the command line."""
    return "--" + (declared.name or field.name).replace("_", "-")


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
class Options:
    """The base of all options, which checks their limits.

    Raises:
        InputError: a number outside of its range, a word that is none of the choices, or a text with NUL in it.
    """

    def __post_init__(self) -> None:
        for field, declared in declarations(type(self)):
            value = getattr(self, field.name)
            for each in value if isinstance(value, tuple | list) else (value,):
                if (admitted := _refusal(declared, each)) is not None:
                    from dydit import InputError  # not at the top: it brings torch, for which `--help` need not wait

                    name = field.name if declared.positional else _flag(field, declared)
                    raise InputError(f"{name} {str(each)[:60]}: give {admitted}")

    def refuse(self, names: Iterable[str], reason: str) -> None:
        """Refuse those of the fields `names` that have another value than by default: this run would pass them over.

        Raises:
            InputError: with all of them and the `reason`.
        """
        given = []
        for field, declared in declarations(type(self)):
            value = getattr(self, field.name)
            if field.name in names and value != field.default:
                shown = " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
                given.append(_flag(field, declared) + (f" {shown[:60]}" if value is not True else ""))
        if given:
            from dydit import InputError

            raise InputError(f"{', '.join(given)}: {reason}; leave {'it' if len(given) == 1 else 'them'} out")


@dataclass(frozen=True, kw_only=True)
class OutputOptions(Options):
    """Where a command writes."""

    out: Path = option(Path("results/local"), help="directory for the results")


@dataclass(frozen=True, kw_only=True)
class StrictOptions(Options):
    """Whether verdicts decide the exit status."""

    strict: bool = option(False, help="exit with status 1 when a verdict is `deviates`")


@dataclass(frozen=True, kw_only=True)
class DataOptions(Options):
    """Where files lie that are not fetched."""

    data_root: Path | None = option(None, metavar="DIR", help="directory of data sets and downloaded files")


@dataclass(frozen=True, kw_only=True)
class AverageOptions(Options):
    """Which weights of a training checkpoint are read."""

    weights: str = option("ema", help="of a training checkpoint: ema or model", choices=("ema", "model"))


@dataclass(frozen=True, kw_only=True)
class WeightsOptions(AverageOptions):
    """How the weights of a checkpoint are read."""

    model: str | None = option(None, metavar="NAME", help="such as DyDiT-XL/2, for files that do not name their model")
    resolution: int | None = option(
        None, metavar="PIXELS", help="of a named model's images (default: 256, or that of its data set)", within=PIXELS
    )


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions(WeightsOptions):
    """A trained network."""

    checkpoint: str = option(metavar="FILE", help="file or published name, such as dydit-xl-2-lambda-0.5")


@dataclass(frozen=True, kw_only=True)
class DeviceOptions(Options):
    """Where a command computes."""

    device: str = option("cpu", help="cpu or cuda")


@dataclass(frozen=True, kw_only=True)
class ProcessOptions(DeviceOptions):
    """Where each process of a run computes. Under torchrun, cuda is the GPU of the process's local rank."""

    threads: int = option(1, help="CPU threads per process; their number decides rounding", within=THREADS)


@dataclass(frozen=True, kw_only=True)
class DtypeOptions(Options):
    """The floating-point type of a network."""

    dtype: str = option("fp32", help="of the network: fp32 or bf16")


@dataclass(frozen=True, kw_only=True)
class Tf32Options(Options):
    """The arithmetic of float32 products."""

    tf32: bool = option(False, help="float32 products on a GPU take TF32 inputs, as in the papers")


@dataclass(frozen=True, kw_only=True)
class AutoencoderOptions(Options):
    """The autoencoder of latents."""

    vae: str | None = option(
        None,
        metavar="PATH",
        help="of latents: sd-vae-ft-ema (default), sd-vae-ft-mse, or a directory in diffusers' layout",
    )


@dataclass(frozen=True, kw_only=True)
class ExtractorOptions(Options):
    """Weights of a feature extractor that are not the published ones, or lie elsewhere."""

    extractor_weights: Path | None = option(
        None, name="weights", metavar="FILE", help="of the extractor, if not where it looks for them"
    )
    weights_sha256: str | None = option(
        None, metavar="HEX", help="accept extractor weights of this SHA-256, not the published ones"
    )
