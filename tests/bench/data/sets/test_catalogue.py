"""The table of data sets: complete, checked when it is read, and clear about what it does not have."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.data import preprocessing
from bench.data.sets.catalogue import DATASETS, DataSet, read_datasets
from bench.data.sets.opening import open_dataset
from dydit import InputError

ENTRY = """
[one]
title = "One"
hub_id = "somebody/one"
config = "default"
splits = { train = 30, test = 10 }
local_splits = ["test"]
image_column = "image"
label_column = "label"
classes = 10
resolution = 32
"""


@pytest.mark.parametrize("entry", DATASETS.values(), ids=DATASETS)
def test_every_entry_names_its_preprocessing(entry: DataSet) -> None:
    assert entry.preprocessing() == (preprocessing.NATIVE if entry.native else preprocessing.PREPROCESSING)
    assert entry.preprocessing(4) == preprocessing.PREPROCESSING


def test_the_papers_data_sets_are_there() -> None:
    assert {"imagenet", "cifar10", "cifar100", "food101", "artbench10", "cars", "birds", "digits"} < DATASETS.keys()
    assert {name: DATASETS[name].classes for name in ("imagenet", "cars", "birds")} == {
        "imagenet": 1000,
        "cars": 196,
        "birds": 200,
    }


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(InputError, match=r"'mnist'; choose one of imagenet, cifar10.*digits$"):
        open_dataset("mnist")
    with pytest.raises(InputError, match="'val'; choose one of train, validation"):
        open_dataset("imagenet", "val")


def test_resolutions_above_the_native_one_are_refused() -> None:
    with pytest.raises(InputError, match="from 1 to 32, the native one"):
        open_dataset("cifar10", resolution=64)
    with pytest.raises(InputError, match="at least 1"):
        open_dataset("imagenet", resolution=0)


def test_what_is_left_out_has_a_default(tmp_path: Path) -> None:
    (tmp_path / "datasets.toml").write_text(ENTRY)
    assert read_datasets(tmp_path / "datasets.toml") == {
        "one": DataSet(
            name="one",
            title="One",
            splits={"train": 30, "test": 10},
            image_column="image",
            resolution=32,
            hub_id="somebody/one",
            config="default",
            label_column="label",
            classes=10,
            native=False,
            local_splits=("test",),
            gated=False,
            note="",
        )
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = [", "not TOML"),
        ("one = 1", r"\[one\]: 1 is no table"),
        (ENTRY + "colour = 1", "unknown key colour"),
        (ENTRY.replace('"One"', "3"), "title = 3; it must be of type str"),
        (ENTRY.replace("train = 30", "train = true"), r"splits\.train = True; it must be of type int"),
        (ENTRY.replace('["test"]', '"test"'), "local_splits = 'test'; it must be of type list"),
        (ENTRY.replace('image_column = "image"', ""), "image_column is missing or empty"),
        (ENTRY.replace("{ train = 30, test = 10 }", "{}"), "splits is missing or empty"),
        (ENTRY.replace("30", "0"), "at least 1"),
        (ENTRY.replace("32", "0"), "resolution = 0"),
        (ENTRY.replace('["test"]', '["train"]'), r"local_splits = \['train'\]; splits after train"),
        (ENTRY.replace('config = "default"', ""), "config = None; give both"),
        (ENTRY.replace("classes = 10", ""), "classes = 0; give both"),
        (ENTRY.replace("classes = 10", "classes = -1"), "classes = -1"),
    ],
)
def test_a_table_that_is_no_data_set_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "datasets.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_datasets(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
