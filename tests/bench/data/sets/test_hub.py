"""Data sets in the hub's layout, made here: parquet files and a hub, mapped and streamed; no network."""

from __future__ import annotations

import dataclasses
import io
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets as hub
import numpy as np
import pytest
import torch
from PIL import Image

from bench.data import preprocessing, sources
from bench.data.sets.catalogue import DATASETS
from bench.data.sets.opening import open_dataset, open_stream
from dydit import InputError

Stacked = Callable[[Any], np.ndarray]
Pictures = Callable[..., list[Image.Image]]
Open = Callable[..., Any]
OPENERS = pytest.mark.parametrize("open_set", [open_dataset, open_stream])


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's cache in a folder of the test, and no way to the hub."""
    monkeypatch.setattr(hub.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))

    def offline(*arguments: Any, **options: Any) -> None:
        raise ConnectionError("Couldn't reach\nthe hub")

    monkeypatch.setattr(hub, "load_dataset", offline)


def rows(name: str, drawn: list[Image.Image], labels: list[int]) -> hub.Dataset:
    """Pictures and labels with the columns and features of the hub's copy, and one column more."""
    entry = DATASETS[name]
    columns: dict[str, Any] = {entry.image_column: drawn, "extra": ["more"] * len(drawn)}
    features: dict[str, Any] = {entry.image_column: hub.Image(), "extra": hub.Value("string")}
    if entry.label_column is not None:
        columns[entry.label_column] = labels
        features[entry.label_column] = hub.ClassLabel(num_classes=entry.classes)
    return hub.Dataset.from_dict(columns, features=hub.Features(features))


def write_parquet(path: Path, table: hub.Dataset) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(path)


def files_below(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*"))


# Parquet


@OPENERS
@pytest.mark.parametrize(
    "place", ["data/test-00000-of-00001.parquet", "plain_text/test-00000-of-00001.parquet", "plain_text/test/0.parquet"]
)
def test_parquet_in_the_layouts_of_the_hub(
    tmp_path: Path, place: str, open_set: Open, stacked: Stacked, random_pictures: Pictures
) -> None:
    drawn = random_pictures(5, 32, 32)
    write_parquet(tmp_path / place, rows("cifar10", drawn, [3, 1, 4, 1, 5]))
    before = files_below(tmp_path)
    opened = open_set("cifar10", "test", data_root=tmp_path)
    assert (opened.name, opened.size) == ("cifar10/test", (32, 32))
    assert np.array_equal(stacked(opened), np.stack(drawn))
    assert len(opened) == 5 and opened.preprocessing == "native"
    assert files_below(tmp_path) == before  # no cache among the data


def test_parquet_can_be_read_at_random_and_sent_to_workers(tmp_path: Path, random_pictures: Pictures) -> None:
    drawn = random_pictures(5, 32, 32)
    write_parquet(tmp_path / "data" / "train-00000-of-00001.parquet", rows("cifar10", drawn, [3, 1, 4, 1, 5]))
    opened = pickle.loads(pickle.dumps(open_dataset("cifar10", data_root=tmp_path)))
    assert opened.labels.tolist() == [3, 1, 4, 1, 5]
    for index in (4, 0, -2):
        assert np.array_equal(opened[index].permute(1, 2, 0).numpy(), np.stack(drawn)[index])


@OPENERS
def test_files_come_in_the_order_of_their_numbers(
    tmp_path: Path, open_set: Open, stacked: Stacked, random_pictures: Pictures
) -> None:
    drawn = random_pictures(6, 32, 32)
    for number in (2, 0, 1):
        part = rows("cifar100", drawn[2 * number : 2 * number + 2], [99 - number] * 2)
        write_parquet(tmp_path / "cifar100" / "data" / f"train-0000{number}-of-00003.parquet", part)
    opened = open_set("cifar100", "train", data_root=tmp_path)
    assert np.array_equal(stacked(opened), np.stack(drawn))
    (tmp_path / "cifar100" / "data" / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(InputError, match="2 of 3 parquet files of split train"):
        open_set("cifar100", "train", data_root=tmp_path)


def test_pictures_are_cropped_by_the_protocol(tmp_path: Path, stacked: Stacked, random_pictures: Pictures) -> None:
    drawn = [*random_pictures(1, 30, 70), *random_pictures(1, 9, 8, seed=1), *random_pictures(1, 16, 16, seed=2)]
    write_parquet(tmp_path / "data" / "train-0.parquet", rows("food101", drawn, [0, 100, 50]))
    opened = open_dataset("food101", data_root=tmp_path, resolution=16)
    assert opened.size == (16, 16) and opened.preprocessing == "adm-centre-crop"
    assert np.array_equal(stacked(opened), np.stack([preprocessing.centre_crop(picture, 16) for picture in drawn]))


def test_the_default_resolution_is_the_models(tmp_path: Path, stacked: Stacked, random_pictures: Pictures) -> None:
    drawn = random_pictures(1, 300, 260)
    write_parquet(tmp_path / "data" / "test-0.parquet", rows("cars", drawn, [195]))
    opened = open_dataset("cars", "test", data_root=tmp_path)
    assert np.array_equal(stacked(opened), np.stack([preprocessing.centre_crop(drawn[0], 256)]))


def test_a_set_without_classes_has_no_labels(tmp_path: Path, stacked: Stacked, random_pictures: Pictures) -> None:
    drawn = random_pictures(2, 20, 20)
    write_parquet(tmp_path / "data" / "val-0.parquet", rows("coco2014", drawn, []))
    opened = open_dataset("coco2014", data_root=tmp_path, resolution=20)
    assert np.array_equal(stacked(opened), np.stack(drawn))
    with pytest.raises(InputError, match="coco2014/val: no class labels"):
        _ = opened.labels


def test_orientation_tags_are_not_followed(tmp_path: Path, stacked: Stacked, random_pictures: Pictures) -> None:
    exif = Image.Exif()
    exif[Image.ExifTags.Base.Orientation] = 6
    buffer = io.BytesIO()
    random_pictures(1, 8, 24)[0].save(buffer, "JPEG", exif=exif)
    encoded = {"bytes": buffer.getvalue(), "path": None}
    write_parquet(tmp_path / "data" / "train-0.parquet", rows("birds", [encoded], [0]))  # type: ignore[list-item]
    opened = open_dataset("birds", data_root=tmp_path, resolution=8)
    with Image.open(buffer) as image:
        assert np.array_equal(stacked(opened)[0], np.asarray(image)[:, 8:16])


@OPENERS
def test_a_broken_picture_is_named_when_it_is_reached(
    tmp_path: Path, open_set: Open, random_pictures: Pictures
) -> None:
    drawn: list[Any] = [*random_pictures(1, 32, 32), {"bytes": b"no picture", "path": None}]
    write_parquet(tmp_path / "data" / "train-0.parquet", rows("cifar10", drawn, [0, 1]))
    opened = iter(open_set("cifar10", data_root=tmp_path))
    assert next(opened).shape == (3, 32, 32)
    with pytest.raises(InputError, match=r"cifar10/train, row 1: not a whole picture"):
        next(opened)


def test_an_empty_row_is_named(tmp_path: Path, random_pictures: Pictures) -> None:
    drawn: list[Any] = [*random_pictures(1, 32, 32), None]
    write_parquet(tmp_path / "data" / "train-0.parquet", rows("cifar10", drawn, [0, 1]))
    with pytest.raises(InputError, match="cifar10/train, row 1: no picture"):
        open_dataset("cifar10", data_root=tmp_path)[1]


def test_pictures_of_another_native_size_are_refused(tmp_path: Path, random_pictures: Pictures) -> None:
    write_parquet(tmp_path / "data" / "train-0.parquet", rows("cifar10", random_pictures(1, 32, 31), [0]))
    with pytest.raises(InputError, match="row 0: 32x31 pixels; CIFAR-10 has 32x32"):
        open_dataset("cifar10", data_root=tmp_path)[0]


def test_labels_out_of_range_are_refused(tmp_path: Path, random_pictures: Pictures) -> None:
    table = rows("cifar10", random_pictures(2, 32, 32), [0, 1]).cast_column("label", hub.Value("int64"))
    table = table.map(lambda row: {"label": row["label"] - 1})
    write_parquet(tmp_path / "data" / "train-0.parquet", table)
    opened = open_dataset("cifar10", data_root=tmp_path)
    with pytest.raises(InputError, match="label -1; CIFAR-10 has 0 to 9"):
        _ = opened.labels


def test_labels_that_are_text_are_refused(tmp_path: Path, random_pictures: Pictures) -> None:
    table = rows("cifar10", random_pictures(1, 32, 32), [0]).cast_column("label", hub.Value("string"))
    write_parquet(tmp_path / "data" / "train-0.parquet", table)
    with pytest.raises(InputError, match="whole numbers"):
        _ = open_dataset("cifar10", data_root=tmp_path).labels


@OPENERS
def test_files_of_another_data_set_are_refused(tmp_path: Path, open_set: Open, random_pictures: Pictures) -> None:
    write_parquet(tmp_path / "data" / "train-0.parquet", rows("cifar10", random_pictures(1, 32, 32), [0]))
    with pytest.raises(InputError, match=r"train-0\.parquet: no column fine_label, only img, extra, label"):
        open_set("cifar100", data_root=tmp_path)


@pytest.mark.parametrize("keep", [0, 50, -1])
def test_a_truncated_parquet_is_named(tmp_path: Path, keep: int, random_pictures: Pictures) -> None:
    path = tmp_path / "data" / "train-0.parquet"
    write_parquet(path, rows("cifar10", random_pictures(1, 32, 32), [0]))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"train-0\.parquet: not a whole parquet file"):
        open_dataset("cifar10", data_root=tmp_path)


def test_damaged_parquet_pages_are_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], random_pictures: Pictures
) -> None:
    path = tmp_path / "data" / "train-0.parquet"
    write_parquet(path, rows("cifar10", random_pictures(4, 32, 32), [0, 1, 2, 3]))
    content = bytearray(path.read_bytes())
    content[4:2000] = bytes(1996)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"data: cannot be read"):
        open_dataset("cifar10", data_root=tmp_path)


def test_a_stream_that_breaks_off_is_named(tmp_path: Path, stacked: Stacked, random_pictures: Pictures) -> None:
    paths = [tmp_path / "data" / f"train-{number}.parquet" for number in range(2)]
    for path in paths:
        write_parquet(path, rows("cifar10", random_pictures(2, 32, 32), [0, 1]))
    opened = open_stream("cifar10", data_root=tmp_path)
    paths[1].write_bytes(b"gone")
    with pytest.raises(InputError, match=r"cifar10/train: the stream broke off after row 1 \(.*download it"):
        stacked(opened)


def test_a_stream_can_be_read_by_the_worker_of_a_loader(tmp_path: Path, random_pictures: Pictures) -> None:
    drawn = random_pictures(5, 32, 32)
    for number in range(2):
        part = rows("cifar10", drawn[3 * number : 3 * number + 3], [0] * (3 - number))
        write_parquet(tmp_path / "data" / f"train-{number}.parquet", part)
    opened = open_stream("cifar10", data_root=tmp_path)
    loader = torch.utils.data.DataLoader(opened, batch_size=2, num_workers=1, generator=torch.Generator())
    assert np.array_equal(torch.cat(list(loader)).permute(0, 2, 3, 1).numpy(), np.stack(drawn))


def test_opening_says_how_many_rows_there_are_and_leaves_the_generators_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], stacked: Stacked, random_pictures: Pictures
) -> None:
    write_parquet(tmp_path / "data" / "train-0.parquet", rows("cifar10", random_pictures(2, 32, 32), [0, 1]))
    capfd.readouterr()
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    opened = open_dataset("cifar10", data_root=tmp_path)
    _ = stacked(opened), opened.labels
    assert torch.equal(torch.get_rng_state(), before[0]) and np.array_equal(np.random.get_state()[1], before[1])
    told = capfd.readouterr()
    assert told.out == "" and told.err == f"{tmp_path}/data: 2 rows; split train of CIFAR-10 has 50000\n"
    assert not hub.utils.are_progress_bars_disabled()


def test_open_images_passes_on_what_was_asked_for(tmp_path: Path, stacked: Stacked, random_pictures: Pictures) -> None:
    drawn = random_pictures(2, 32, 32)
    write_parquet(tmp_path / "data" / "test-0.parquet", rows("cifar10", drawn, [0, 1]))
    opened = sources.open_images("cifar10", data_root=tmp_path, split="test", resolution=16)
    assert opened.name == "cifar10/test"
    assert np.array_equal(stacked(opened), np.stack([preprocessing.centre_crop(picture, 16) for picture in drawn]))


# The hub


@OPENERS
def test_without_a_network_one_line_says_what_to_do(open_set: Open) -> None:
    with pytest.raises(InputError) as caught:
        open_set("cifar10")
    message = str(caught.value)
    assert "uoft-cs/cifar10" in message and "Couldn't reach the hub" in message and "\n" not in message
    assert "hf download uoft-cs/cifar10 --repo-type dataset --local-dir DIR/cifar10" in message
    assert "--data-root DIR" in message and "terms" not in message
    with pytest.raises(InputError, match="accept its terms"):
        open_dataset("imagenet")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, random_pictures: Pictures) -> Iterator[list[Any]]:
    """A hub that has two images of every split; what it was asked for."""
    calls: list[Any] = []

    def load_dataset(hub_id: str, config: str, *, split: str, streaming: bool) -> Any:
        calls.append((hub_id, config, split, streaming))
        table = rows("cifar100", random_pictures(2, 32, 32), [5, 99])
        return table.to_iterable_dataset() if streaming else table

    monkeypatch.setattr(hub, "load_dataset", load_dataset)
    monkeypatch.setitem(DATASETS, "cifar100", dataclasses.replace(DATASETS["cifar100"], splits={"train": 3, "test": 2}))
    return calls


@OPENERS
def test_the_hubs_copy(asked: list[Any], open_set: Open, stacked: Stacked, random_pictures: Pictures) -> None:
    opened = open_set("cifar100", "test")
    assert asked == [("uoft-cs/cifar100", "cifar100", "test", open_set is open_stream)]
    assert np.array_equal(stacked(opened), np.stack(random_pictures(2, 32, 32)))
    assert len(opened) == 2


@pytest.mark.parametrize("count", [1, 3])
def test_a_stream_of_another_length_is_refused(
    asked: list[Any], count: int, stacked: Stacked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DATASETS, "cifar100", dataclasses.replace(DATASETS["cifar100"], splits={"test": count}))
    with pytest.raises(InputError, match=rf"cifar100/test: \w+ images came, expected {count}"):
        stacked(open_stream("cifar100", "test"))


def test_a_hub_copy_that_has_changed_is_refused(asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="has 2 images in split train, expected 3"):
        open_dataset("cifar100", "train")
    monkeypatch.setitem(DATASETS, "cifar10", dataclasses.replace(DATASETS["cifar10"], splits={"train": 2}))
    with pytest.raises(InputError, match="uoft-cs/cifar10: no column label, only img, extra, fine_label"):
        open_dataset("cifar10")


def test_splits_that_the_hub_lacks_are_named() -> None:
    with pytest.raises(InputError, match=r"no images of split train; put them into DIR/coco2014/train"):
        open_dataset("coco2014", "train")


@pytest.mark.parametrize("finger", ["", "-0123456789abcdef"])
def test_a_series_must_be_whole_and_one(tmp_path: Path, random_pictures: Pictures, finger: str) -> None:
    def part(number: int, count: int = 3, mark: str = finger) -> Path:
        return tmp_path / "data" / f"train-{number:05d}-of-{count:05d}{mark}.parquet"

    for number in (0, 2):
        write_parquet(part(number), rows("cifar10", random_pictures(1, 32, 32), [0]))
    with pytest.raises(InputError, match="2 of 3 parquet files of split train are there, number 1 is missing"):
        open_dataset("cifar10", data_root=tmp_path)
    write_parquet(part(1), rows("cifar10", random_pictures(1, 32, 32), [0]))
    assert len(open_dataset("cifar10", data_root=tmp_path)) == 3
    write_parquet(part(1, mark="-fedcba9876543210"), rows("cifar10", random_pictures(1, 32, 32), [0]))
    with pytest.raises(InputError, match="is there twice"):
        open_dataset("cifar10", data_root=tmp_path)
    part(1, mark="-fedcba9876543210").rename(part(1, count=4))
    with pytest.raises(InputError, match="more than one series"):
        open_dataset("cifar10", data_root=tmp_path)
