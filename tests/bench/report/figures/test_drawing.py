"""A figure is drawn once for its content, and in the colours of the page."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from bench.report.figures.drawing import INK, SERIES, Drawing, Kind, figure, svg_file, to_svg


def _draw(data: pd.DataFrame) -> Figure:
    drawn = figure()
    drawn.subplots().plot(data["x"], data["y"], color=SERIES[0], label="a line")
    return drawn


@pytest.fixture
def drawing() -> Drawing:
    data = pd.DataFrame({"x": [1, 2], "y": [3.0, 4.0]})
    return Drawing(Kind("line", "A line", "python -m bench x"), data, _draw, 'Goes "up" & on', "Read it.", ("a.csv",))


def test_it_takes_its_colours_from_the_page(drawing: Drawing) -> None:
    text = to_svg(drawing)
    assert text.startswith("<svg") and 'aria-label="Goes &quot;up&quot; &amp; on"' in text
    assert "var(--series-1)" in text and "currentColor" in text and INK not in text and SERIES[0] not in text
    assert 'id="line-' in text and "<metadata>" not in text


def test_the_same_content_is_the_same_file(drawing: Drawing) -> None:
    assert svg_file(drawing) == svg_file(drawing)


def test_what_was_drawn_before_is_not_drawn_again_unless_it_has_changed(
    drawing: Drawing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = to_svg(drawing, tmp_path)
    (kept,) = tmp_path.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr("bench.report.figures.drawing.svg_file", lambda _: pytest.fail("drawn again"))
        assert to_svg(drawing, tmp_path) == first
    changed = dataclasses.replace(drawing, data=drawing.data.assign(y=[3.0, 5.0]))
    assert to_svg(changed, tmp_path) != first
    assert len(list(tmp_path.iterdir())) == 2
    whole = kept.read_text()
    kept.write_text(whole.replace("line", "lime", 1))
    assert to_svg(drawing, tmp_path) == first and kept.read_text() == whole
