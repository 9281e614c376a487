"""The directory of a run that can be resumed: one run at a time, the same run only, and files that are always whole.

A run takes its directory (`take_directory`), compares itself with the run that is there (`check_same_run`), asks for
room (`check_disk`), and writes every file whole or not at all (`whole_file`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dydit import InputError
from dydit.checkpoint.atomic import TOKEN, atomic_path, partial_path

ALL_FILES = ("*.*",)
"""Every file of a directory, and none of the folders inside."""
_KINDS = {".csv", ".md", ".json", ".npz", ".npy", ".png", ".svg", ".html", ".safetensors", ".pt"}
"""Endings of the files that runs write: a folder with such a name is in the way of one."""


def prepare_output(path: str | Path) -> Path:
    """Make the output directory and prove that it can be written; to be called before any long work.

    Raises:
        InputError: the path or a parent is a file, or the directory cannot be made or written.
    """
    directory = Path(path)
    for part in (directory, *directory.parents):
        if os.path.exists(part) and not part.is_dir():
            raise InputError(f"output {directory}: {part} is a file; remove it or choose another directory")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"output {directory}: not writable ({reason}); choose another directory") from error
    return directory


@contextlib.contextmanager
def take_directory(
    directory: Path, files: Iterable[str] = ALL_FILES, name: str | None = None, *, wait: bool = False
) -> Iterator[None]:
    """Make the output directory, lock it for this run, and remove the half-written files of a run that was killed.

    The lock ends with the process, however that ends.

    Args:
        directory: of the run.
        files: the files that the run writes, as patterns below `directory`, such as `units/*.npz`. Half-written files
            of other names stay: another run may be writing them.
        name: where several runs may write into one directory at once, what this one writes; the lock is of that alone.
        wait: for another run with the lock of that name, and do not refuse this one.

    Raises:
        InputError: the directory cannot be made or written, another run has locked it, or a folder lies where the run
            would write a file.
    """
    prepare_output(directory)
    with _lock(directory) if name is None else _lock_of_name(directory, name, wait):
        for pattern in files:
            for partial in directory.glob(str(partial_path(Path(pattern), TOKEN))):
                partial.unlink(missing_ok=True)
            _check_no_folder(directory.glob(pattern))
        yield


def _check_no_folder(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.suffix in _KINDS and path.is_dir():
            raise InputError(f"{path}: a folder lies where the run writes a file; move it away or remove it")


def check_same_run(directory: Path, there: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse to mix two runs in one directory.

    Args:
        directory: of the run.
        there: what decides the content of the run in the directory, by name; a value may be a mapping of its own.
        wanted: the same of this run. The first difference in its order is reported.

    Raises:
        InputError: a value differs; the message has its name and both values.
    """
    old, new = _flat(there), _flat(wanted)
    for name in (*new, *old):
        if old.get(name) != new.get(name):
            raise InputError(
                f"output {directory}: holds a run with {name} = {old.get(name)}, this one has {new.get(name)}; "
                "choose another directory"
            )


def check_disk(directory: Path, size: int) -> None:
    """Refuse a run that writes more bytes than the disk has free.

    Raises:
        InputError: `size`, in bytes, is more than that.
    """
    free = shutil.disk_usage(directory).free
    if size > free:
        raise InputError(
            f"output {directory}: the run writes {size / 2**30:.3g} GiB, the disk has {free / 2**30:.3g} GiB free; "
            "make room or choose another directory"
        )


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, which becomes `path` once it is written; it is removed when that fails.

    Raises:
        InputError: the file cannot be written, as on a full disk; what was there before stays.
    """
    with clear_write_errors(path), atomic_path(path) as partial:
        yield partial


@contextlib.contextmanager
def clear_write_errors(path: Path) -> Iterator[None]:
    """Turn the errors of code that writes `path` into one line that names it, and says that the run can go on.

    Raises:
        InputError: an OSError was raised inside, or a RuntimeError of torch that an OSError caused.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__context__
        if cause is None:
            raise
        reason = cause.strerror or cause
        raise InputError(f"{path}: cannot be written ({reason}); mend that and repeat the run, which goes on") from None


@contextlib.contextmanager
def _lock(directory: Path) -> Iterator[None]:
    handle = os.open(directory, os.O_RDONLY)
    try:
        if not _locked(handle, wait=False):
            raise InputError(
                f"output {directory}: another run is writing there; wait for its end or choose another directory"
            )
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _lock_of_name(directory: Path, name: str, wait: bool) -> Iterator[None]:
    """A lock that lies in a file of its own, which is removed at the end, or by the next run after a kill."""
    path = directory / f".{name}.lock"
    handle = None
    try:
        while handle is None:
            handle = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
            if not _locked(handle, wait):
                raise InputError(f"output {directory}: another run is writing {name}; wait for its end")
            if not path.exists() or not os.path.samestat(os.fstat(handle), path.stat()):
                os.close(handle)  # whoever had the lock removed its file while this one waited
                handle = None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        if handle is not None:
            os.close(handle)


def _locked(handle: int, wait: bool) -> bool:
    """Lock an open file or directory; False where another process has locked it."""
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        pass  # some network file systems cannot lock; files are written whole there, too
    return True


def _flat(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Name -> value, a mapping as a value replaced by its own names: `{"config": {"depth": 2}}` -> `config.depth`."""
    flat: dict[str, Any] = {}
    for name, value in identity.items():
        flat |= {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, Mapping) else {name: value}
    return flat
