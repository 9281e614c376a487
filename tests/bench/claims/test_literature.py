"""Conventions of published work: each is checked against the suite's own count, and nothing is left out in silence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.claims.literature import CONVENTIONS_FILE, LITERATURE, LiteraturePoint, literature_points
from bench.claims.published import load_published
from dydit.errors import InputError


@pytest.fixture(scope="module")
def points() -> dict[tuple[str, str], LiteraturePoint]:
    """By entry and row."""
    return {(point.source, point.row): point for point in literature_points()}


def test_operations_branches_and_steps_are_taken_apart(points: dict[tuple[str, str], LiteraturePoint]) -> None:
    base = points["rfc", "DiT-XL/2 DDIM-50 full compute"]
    assert base.counted == "23.74 T = 118.70 G x 2 operations x 2 branches x 50 steps (dydit-paper)"
    assert base.work == pytest.approx(118.689e9 * 2 * 50, rel=1e-4) and base.share == base.fid_ratio == 1.0
    cached = points["rfc", "TaylorSeer N=4"]
    assert cached.share == pytest.approx(6.66 / 23.74) and cached.fid_ratio == 2.55 / 2.32


def test_counts_without_attention_are_recognised(points: dict[tuple[str, str], LiteraturePoint]) -> None:
    point = points["smoothcache-30", "DiT-XL/2 FORA n=2, 30 steps"]
    assert "x 32 images (fused-blind)" in point.counted
    assert point.share == pytest.approx(117.08 / 219.36) and point.speedup == 4.88 / 3.13


def test_ratios_and_rates_are_read_the_right_way_round(points: dict[tuple[str, str], LiteraturePoint]) -> None:
    assert points["taylorseer", "FORA N=3"].share == 1 / 2.77
    assert points["sparsedit-xl", "SparseDiT-XL r in [0.61,0.86]"].speedup == 2.95 / 1.58
    rows = [point for point in points.values() if point.source == "flexidit" and point.share is not None]
    assert [point.share for point in rows] == pytest.approx([1.0, 75.9 / 118.6, 54.6 / 118.6, 34.4 / 118.6])
    assert [point.fid for point in rows] == [2.25, 2.25, 2.64, 3.24]


def test_every_row_with_fid_and_efficiency_is_drawn_or_named(points: dict[tuple[str, str], LiteraturePoint]) -> None:
    units: dict[tuple[str, str, str], set[str]] = {}
    for value in load_published(LITERATURE):
        if value.dataset == "ImageNet-256":
            kind = "FID-50K" if value.metric.startswith("FID-50K") else value.unit
            units.setdefault((value.paper, value.table, value.row), set()).add(kind)
    wanted = {
        row for row, has in units.items() if "FID-50K" in has and has & {"G", "T", "x", "s", "ms", "it/s", "img/s"}
    }
    known = {
        (point.paper, point.table, point.row)
        for point in points.values()
        if point.left_out or (point.fid is not None and (point.share is not None or point.speedup is not None))
    }
    assert len(wanted) > 100 and wanted <= known


def _changed(tmp_path: Path, old: str, new: str) -> Path:
    text = CONVENTIONS_FILE.read_text(encoding="utf-8")
    start = text.index("[chebbooster]")
    entry = text[start : text.index("\n\n", start)]
    assert old in entry
    path = tmp_path / "conventions.toml"
    path.write_text(entry.replace(old, new), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("operations = 2", "operations = 1", "come to 237.35 G for a pass of DiT-XL/2"),
        ("steps = 50", "steps = 250", "come to 23.73 G for a pass of DiT-XL/2"),
        ('covers = "image"', 'covers = "run"', "covers = 'run'; choose one of pass, step, image"),
        ("DDIM-50", "DDIM-51", "no row 'DiT-XL/2 DDIM-51'"),
        ("operations = 2", "operation = 2", "unknown key operation"),
        ("FLOPs per image (2xMAC, CFG)", "TFLOPs", "prints no 'TFLOPs'"),
        ('work = "FLOPs', 'work = "latency"\nratio = "FLOPs', "is in s; work is in G or T"),
        ('network = "DiT-XL/2"', 'network = ""', "unknown model ''"),
    ],
)
def test_a_convention_that_does_not_come_out_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        literature_points(_changed(tmp_path, old, new))
