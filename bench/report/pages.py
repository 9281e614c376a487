"""Pages with generated parts: what stands between `<!-- NAME: begin -->` and `<!-- NAME: end -->` is written here."""

from __future__ import annotations

from pathlib import Path

from dydit import InputError
from dydit.checkpoint.atomic import atomic_path


def fill_section(page: Path, section: str, text: str, check: bool = False) -> bool:
    """Put `text` between the markers of a section of a page; True if it stood there already.

    Args:
        page: a file in markdown.
        section: the NAME in its markers.
        text: in markdown.
        check: change nothing.

    Raises:
        InputError: no such page, or one without the markers.
    """
    try:
        old = page.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{page.name}: cannot be read ({error.strerror}); pages are written in a checkout of the project"
        ) from error
    begin, end = (f"<!-- {section}: {word} -->" for word in ("begin", "end"))
    if begin not in old or end not in old:
        raise InputError(f"{page.name}: markers {begin} and {end} not found; put them where the table belongs")
    head, rest = old.split(begin)
    _, tail = rest.split(end)
    new = f"{head}{begin}\n{text}\n{end}{tail}"
    if new != old and not check:
        with atomic_path(page) as partial:
            partial.write_text(new, encoding="utf-8")
    return new == old
