"""Coverage-guided fuzzing of every reader: whatever the bytes are, it returns, or raises an InputError of one line.

The readers and their first files are `CASES` of test_mutations.py; atheris changes the bytes, and goes on from those
that reach new lines of code. These are kept in tests/corpus, from where the next run starts and test_mutations.py reads
them. What makes a reader fail becomes a test there. `nox -s fuzz` runs it; by hand, with atheris installed:

    python tests/fuzz.py --seconds 20 [--keep] [READER ...]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

CRASHES = Path("results/local/fuzz")
"""Where the bytes lie that made a reader fail."""
LONGEST = 65_536
"""Bytes of a file; larger first files are left out."""
KEPT, LONGEST_KEPT = 64, 4096
"""How many files the corpus keeps for a reader, the shortest first, and the bytes of one."""
SECONDS_EACH, MEMORY_MIB = 20, 6144
"""For one file: what takes longer or more counts as a crash."""


def main() -> None:
    """Fuzz some readers, one process after another; exit status 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("readers", nargs="*", metavar="READER", help="of test_mutations.py; all by default")
    parser.add_argument("--seconds", type=int, default=20, help="for each reader (default 20)")
    parser.add_argument("--keep", action="store_true", help="add what reached new lines to tests/corpus")
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)  # of the process that fuzzes one reader
    options = parser.parse_args()
    if options.scratch:
        _fuzz(options.readers[0], options.seconds, options.scratch)
    from test_mutations import CASES, corpus, corpus_file  # the folder of this file comes first where Python looks

    if unknown := sorted(set(options.readers) - set(CASES)):
        sys.exit(f"no reader {unknown[0]}; there are {', '.join(CASES)}")
    failed = []
    for reader in options.readers or CASES:
        if len(CASES[reader][0]()) > LONGEST:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            if not _is_sound(reader, options.seconds, Path(scratch)):
                failed.append(reader)
            elif options.keep:
                reached = [each.read_bytes() for each in Path(scratch, "reached").iterdir()]
                _keep(corpus_file(reader), {*corpus(reader), *reached})
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; the bytes are in {CRASHES}")


def _is_sound(reader: str, seconds: int, scratch: Path) -> bool:
    """Fuzz one reader in a process of its own, and say what came of it."""
    command = [sys.executable, __file__, "--scratch", str(scratch), "--seconds", str(seconds), reader]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    lines = done.stderr.splitlines()
    runs = next((line for line in reversed(lines) if line.startswith("Done ")), f"exit status {done.returncode}")
    print(f"{reader}: {runs}", flush=True)
    if done.returncode:
        CRASHES.mkdir(parents=True, exist_ok=True)
        shutil.copy(scratch / "last", CRASHES / reader)  # also where the process was killed
        print("\n".join(lines[-30:]))
    return done.returncode == 0


def _keep(path: Path, contents: set[bytes]) -> None:
    """Write the archive anew: equal contents give equal bytes."""
    short = sorted((each for each in contents if len(each) <= LONGEST_KEPT), key=lambda each: (len(each), each))
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for number, content in enumerate(short[:KEPT]):
            archive.writestr(zipfile.ZipInfo(f"{number:03}"), content, zipfile.ZIP_DEFLATED)


def _fuzz(reader: str, seconds: int, scratch: Path) -> None:
    """Fuzz one reader; ends the process."""
    import atheris

    with atheris.instrument_imports(include=["bench", "dydit", "json", "tomllib", "zipfile", "numpy.lib"]):
        from test_mutations import CASES, corpus

        from dydit import InputError
    make, name, read = CASES[reader]
    warnings.simplefilter("error")  # as in the tests: a warning is two lines that a user cannot use
    seeds, reached = scratch / "seeds", scratch / "reached"
    for folder in (seeds, reached):
        folder.mkdir()
    for number, content in enumerate([make(), *corpus(reader)]):
        (seeds / str(number)).write_bytes(content)
    place = scratch / "file"

    def one(content: bytes) -> None:
        (scratch / "last").write_bytes(content)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        (place / name).write_bytes(content)
        try:
            read(place / name)
        except InputError as error:
            assert len(str(error).splitlines()) == 1, str(error)

    limits = [f"-max_total_time={seconds}", f"-timeout={SECONDS_EACH}", f"-rss_limit_mb={MEMORY_MIB}"]
    where = [f"-max_len={LONGEST}", f"-artifact_prefix={scratch}/"]
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    atheris.Setup([sys.argv[0], *limits, *where, str(reached), str(seeds)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
