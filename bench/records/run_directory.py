"""The directory of a run: taken by one process group, checked before work, resumed by the same run alone."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dydit import InputError


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
def exclusive(directory: Path) -> Iterator[None]:
    """Hold a directory against a second run; the hold ends with the process, however that ends.

    Raises:
        InputError: another run holds it.
    """
    import fcntl

    handle = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"output {directory}: another run is writing there; wait for its end or choose another directory"
            ) from None
        except OSError:
            pass  # some network file systems lock no directories; units are written whole there, too
        yield
    finally:
        os.close(handle)


def _check_disk(directory: Path, wanted: int) -> None:
    free = shutil.disk_usage(directory).free
    if wanted > free:
        raise InputError(
            f"output {directory}: the run writes {wanted / 2**30:.3g} GiB, the disk has {free / 2**30:.3g} GiB free; "
            "make room or choose another directory"
        )


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """What writes `path`, and fails in one line where the machine refuses, as a full disk does.

    Raises:
        InputError: an OSError was behind what went wrong.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch raises the second about the first
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__context__
        if cause is None:
            raise
        raise InputError(
            f"{path}: cannot be written ({cause.strerror or cause}); the files before it are whole: mend that and "
            "repeat the run, which goes on"
        ) from None
