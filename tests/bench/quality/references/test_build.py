"""References of the parts of a data set combine to that of the whole, and parts of different things do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.quality.metrics import moments
from bench.quality.metrics.moments import Statistics
from bench.quality.references import build
from bench.quality.references.build import merge_references
from bench.quality.references.reference import Reference, read_reference, write_reference
from dydit.errors import InputError

RECORD = {"dataset": "digits", "split": "all", "preprocessing": "native"}


@given(sizes=st.lists(st.integers(2, 80), min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_parts_combine_to_the_whole(
    sizes: list[int], made_up: Callable[..., Reference], close: Callable[..., None]
) -> None:
    rows = np.random.default_rng(0).normal(50.0, 0.5, (sum(sizes), 5))
    parts = [
        replace(
            made_up(2),
            pool=moments.of_features(part),
            spatial=moments.of_features(part[:, :3]),
            rows=part.astype(np.float32),
        )
        for part in np.split(rows, np.cumsum(sizes)[:-1])
    ]
    merged = merge_references(parts)
    close(merged.pool, moments.of_features(rows), 1e-10)
    assert merged.spatial is not None and merged.rows is not None
    close(merged.spatial, moments.of_features(rows[:, :3]), 1e-10)
    assert np.array_equal(merged.rows, rows.astype(np.float32))


def test_parts_give_rows_by_their_share(monkeypatch: pytest.MonkeyPatch, made_up: Callable[..., Reference]) -> None:
    monkeypatch.setattr(build, "KEPT_ROWS", 10)
    parts = [made_up(30, seed=1), made_up(10, seed=2)]
    merged = merge_references(parts).rows
    assert merged is not None and len(merged) == 10
    counts = [sum((part.rows == row).all(axis=1).any() for row in merged) for part in parts if part.rows is not None]
    assert counts == [7, 3]  # 7.5 and 2.5, of the 10 rows that each holds


def test_merging_keeps_only_what_all_parts_have(made_up: Callable[..., Reference]) -> None:
    merged = merge_references([made_up(30), replace(made_up(10), spatial=None, rows=None)])
    assert merged.spatial is None and merged.rows is None and merged.pool.count == 40


def test_merged_files_do_not_keep_the_checksum_of_a_part(tmp_path: Path, made_up: Callable[..., Reference]) -> None:
    for seed in (0, 1):
        write_reference(tmp_path / f"{seed}.npz", made_up(10, seed))
    merged = merge_references([read_reference(tmp_path / f"{seed}.npz") for seed in (0, 1)])
    assert "sha256" not in merged.record and merged.record["dataset"] == "digits"
    write_reference(tmp_path / "both.npz", merged)
    assert read_reference(tmp_path / "both.npz").pool.count == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extractor": "other"}, "extractor of rows is digits-cnn, of rows other"),
        ({"size": (16, 16)}, r"size of rows is \(8, 8\), of rows \(16, 16\)"),
        ({"record": RECORD | {"weights_sha256": "1" * 64}}, "weights_sha256"),
        ({"pool": Statistics(0, np.zeros(5), np.eye(5))}, "how many images"),
    ],
)
def test_parts_of_different_things_are_refused(
    change: dict[str, Any], message: str, made_up: Callable[..., Reference]
) -> None:
    with pytest.raises(InputError, match=message):
        merge_references([made_up(10), replace(made_up(10), **change)])
    with pytest.raises(InputError, match="no references"):
        merge_references([])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("1/3", "2/3"), "files are 1/3, 2/3; give the parts 1/3 to 3/3"),
        (("1/2", "1/2"), "files are 1/2, 1/2"),
        (("1/2", "2/3"), "files are 1/2, 2/3"),
        (("1/2", None), "files are 1/2, a whole set"),
        (("1/2", "2/2", "2/2"), "files are 1/2, 2/2, 2/2"),
        (("1/x", "2/x"), "files are 1/x, 2/x"),
    ],
)
def test_parts_are_all_parts_of_one_number_each_once(
    parts: tuple[str | None, ...], message: str, made_up: Callable[..., Reference]
) -> None:
    given = [
        replace(made_up(10, seed), record=RECORD | {"part": name, "sha256": str(seed)})
        for seed, name in enumerate(parts)
    ]
    with pytest.raises(InputError, match=message):
        merge_references(given)


def test_the_same_file_is_not_counted_twice(made_up: Callable[..., Reference]) -> None:
    own = replace(made_up(10), record=RECORD | {"sha256": "1"})
    with pytest.raises(InputError, match="rows is given 2 times"):
        merge_references([own, own])


def test_parts_may_come_in_any_order_of_their_numbers(made_up: Callable[..., Reference]) -> None:
    given = [replace(made_up(10, n), record=RECORD | {"part": f"{n}/2", "sha256": str(n)}) for n in (2, 1)]
    assert merge_references(given).pool.count == 20
