"""A network under comparison, whoever made it: a module called as (x, t, y), with what it says of itself."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dydit import DiT, InputError, first_line, macs
from dydit.baselines import Method
from dydit.dit import timestep_rows
from dydit.inference import Engine

RAISED = (Exception, SystemExit)
"""What the code of others may raise, to be told in one line; code that exits would end the command in silence."""


@contextlib.contextmanager
def in_one_line(what: str) -> Iterator[None]:
    """Tell in one line what the code of others raises in this context, and where; `what` is what was called.

    Raises:
        InputError: it raised something. A lack of memory, and an InputError of the code itself, pass as they are.
    """
    try:
        yield
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    except RAISED as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}, line {place.lineno}"
        raise InputError(f"{what} raised {type(error).__name__} ({first_line(error)}) in {where}") from None


class ImageShape(Protocol):
    """What a sampler must know of a network; `DiTConfig` has it, too."""

    @property
    def in_channels(self) -> int: ...
    @property
    def input_size(self) -> int: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def learn_sigma(self) -> bool: ...
    @property
    def null_label(self) -> int | None: ...


@dataclass(frozen=True)
class OwnShape:
    """What a module says of its images, and whether it predicts variances, which its output told."""

    in_channels: int
    input_size: int
    num_classes: int
    learn_sigma: bool

    @property
    def null_label(self) -> int:
        """The label that stands for none: the one after the last class."""
        return self.num_classes

    def kwargs(self) -> dict[str, Any]:
        """The fields by name, as run records hold them."""
        return asdict(self)


@dataclass(frozen=True)
class Candidate:
    """A module that fits the protocol, in evaluation mode, by the name under which it is compared."""

    name: str
    module: nn.Module
    config: OwnShape

    def begin_run(self, timesteps: Sequence[int]) -> None:
        """Tell the module that a run begins, where it wants to know.

        Raises:
            InputError: it raises.
        """
        with in_one_line(f"{self.name}: begin_run"):
            begin_run(self.module, timesteps)

    def claimed_macs(self) -> float | None:
        """What the module claims to spend on one image and branch, mean over the run last begun; None: nothing.

        A static DiT of this project claims its closed form.

        Raises:
            InputError: it raises, or claims something that is no number of at least 0.
        """
        if type(self.module) is DiT:
            return macs(self.module.config).total()
        claim = getattr(self.module, "claimed_macs", None)
        if claim is None:
            return None
        try:
            value = claim()
            if value is None or float(value) >= 0:
                return None if value is None else float(value)
        except RAISED as error:
            reason = f"raised {type(error).__name__} ({first_line(error)})"
        else:
            reason = f"gave {value!r}"
        raise InputError(f"{self.name}: claimed_macs() {reason}; it must give multiply-adds of one image, or None")

    def rates(self) -> tuple[float, float, float] | None:
        """Open shares of heads, channel groups and tokens in the last call, where the module has a `routing`."""
        routing = getattr(self.module, "routing", None)
        return None if routing is None else tuple(routing.rates)

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move the module's floating-point weights."""
        self.module.to(device, dtype)

    def state_dict(self) -> dict[str, Tensor]:
        """The module's weights and buffers."""
        return self.module.state_dict()

    def source_sha256(self) -> str | None:
        """Of the file in which the module's class stands: what it does may change while its weights do not."""
        try:
            return hashlib.sha256(Path(inspect.getfile(type(self.module))).read_bytes()).hexdigest()
        except (OSError, TypeError):
            return None


def check_same_images(candidates: Sequence[Candidate]) -> None:
    """Refuse to compare networks that draw different images.

    Raises:
        InputError: two differ in channels, size or classes; both values are shown.
    """
    first = candidates[0]
    for other in candidates[1:]:
        for name in ("in_channels", "input_size", "num_classes"):
            mine, theirs = getattr(first.config, name), getattr(other.config, name)
            if mine != theirs:
                raise InputError(f"{first.name} has {name} = {mine}, {other.name} has {theirs}; compare like with like")


class SamplingModel:
    """A network that computes in a dtype behind float32 inputs and outputs, and hears where a run begins.

    Where a sampler gives a number as timestep, the suite's own engines and methods take it as it is, for they choose by
    it; any other module is given one timestep for each image, on their device.
    """

    def __init__(self, module: Any, dtype: torch.dtype = torch.float32) -> None:
        self.module, self.dtype = module, dtype

    def begin_run(self, timesteps: Sequence[int]) -> None:
        """Pass on that a run begins."""
        with self._telling("begin_run"):
            begin_run(self.module, timesteps)

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor | int, y: Tensor) -> Tensor:
        """Output of the network, float32.

        Raises:
            InputError: a module of others raises, or returns another shape than (N, C or 2C, S, S).
        """
        if isinstance(self.module, Engine | Method):
            own: Tensor = self.module(x.to(self.dtype), t, y)
            return own.float()
        with self._telling(f"a call at timestep {t}" if isinstance(t, int) else "a call"):  # a tensor may be on a GPU
            output = self.module(x.to(self.dtype), timestep_rows(t, x), y)
        return check_output(type(self.module).__name__, output, x).float()

    def _telling(self, called: str) -> contextlib.AbstractContextManager[None]:
        """What the suite's own networks raise is a fault of the suite, whose traceback is wanted."""
        own = isinstance(self.module, DiT | Engine | Method)
        return contextlib.nullcontext() if own else in_one_line(f"{type(self.module).__name__}: {called}")


def check_output(name: str, output: object, x: Tensor) -> Tensor:
    """What a network returned, whose shape must be that of its input x (N, C, S, S), or with twice the channels.

    Raises:
        InputError: it is neither (N, C, S, S) nor (N, 2C, S, S); the message begins with `name`.
    """
    n, channels, *side = x.shape
    wanted = [(n, channels, *side), (n, 2 * channels, *side)]
    if not isinstance(output, Tensor) or tuple(output.shape) not in wanted:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InputError(f"{name}: a call on {wanted[0]} returned {shape}; it must be {wanted[0]} or {wanted[1]}")
    return output


def begin_run(model: Any, timesteps: Sequence[int]) -> None:
    """Tell a model that a run begins which visits these original timesteps in this order, where it has `begin_run`.

    What samples calls this before every batch: methods that keep something from step to step forget it then.
    """
    begin = getattr(model, "begin_run", None)
    if begin is not None:
        begin(list(timesteps))
