"""Data sets in the hub's layout, made here: parquet, folders and CIFAR's archive, mapped and streamed; no network."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets as hub
import numpy as np
import pytest
import torch
from PIL import Image

from bench import cifar_archive, datasets, digits, images, pictures
from bench.datasets import DATASETS, open_dataset
from dydit import InputError


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's cache in a folder of the test, and no way to the hub."""
    monkeypatch.setattr(hub.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))

    def offline(*arguments: Any, **options: Any) -> None:
        raise ConnectionError("Couldn't reach\nthe hub")

    monkeypatch.setattr(hub, "load_dataset", offline)


def random_pictures(count: int, height: int, width: int, seed: int = 0) -> list[Image.Image]:
    array = np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return [Image.fromarray(picture) for picture in array]


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


def stacked(opened: Any) -> np.ndarray:
    """All images as (N, H, W, 3)."""
    return torch.stack(list(opened)).permute(0, 2, 3, 1).numpy()


def array_of(drawn: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(picture) for picture in drawn])


def files_below(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*"))


# The table


@pytest.mark.parametrize("entry", DATASETS.values(), ids=DATASETS)
def test_every_entry_hangs_together(entry: datasets.DataSet) -> None:
    splits = list(entry.splits)
    assert splits[0] not in entry.local_splits and set(entry.local_splits) <= set(splits)
    assert (entry.label_column is None) == (entry.classes == 0)
    assert (entry.hub_id is None) == (entry.config is None)
    assert entry.preprocessing() == (pictures.NATIVE if entry.native else pictures.PREPROCESSING)
    assert entry.preprocessing(4) == pictures.PREPROCESSING


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


# Digits


def test_digits_need_no_files() -> None:
    data = digits.load()
    opened = open_dataset("digits")
    assert (opened.name, opened.size, opened.preprocessing) == ("digits/all", (8, 8), "native")
    assert torch.equal(torch.stack(list(opened)), data.images.expand(-1, 3, -1, -1))
    assert torch.equal(opened.labels, data.labels)


def test_digits_at_half_the_resolution_are_means_of_four() -> None:
    opened = open_dataset("digits", resolution=4)
    assert opened.size == (4, 4) and opened.preprocessing == "adm-centre-crop"
    bytes_ = digits.load().images.int()
    along_rows = (bytes_[..., 0::2] + bytes_[..., 1::2] + 1) // 2  # Pillow rounds after each axis
    means = (along_rows[..., 0::2, :] + along_rows[..., 1::2, :] + 1) // 2
    assert torch.equal(torch.stack(list(opened)), means.expand(-1, 3, -1, -1).byte())
    assert torch.equal(opened.labels, digits.load().labels)


def test_digits_as_a_stream() -> None:
    opened, streamed = open_dataset("digits"), open_dataset("digits", streaming=True)
    assert streamed.size == (8, 8)
    assert torch.equal(torch.stack(list(streamed)), torch.stack(list(opened)))
    assert [label for _, label in streamed.pairs()] == opened.labels.tolist()


# Parquet


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "place", ["data/test-00000-of-00001.parquet", "plain_text/test-00000-of-00001.parquet", "plain_text/test/0.parquet"]
)
def test_parquet_in_the_layouts_of_the_hub(tmp_path: Path, place: str, streaming: bool) -> None:
    drawn = random_pictures(5, 32, 32)
    write_parquet(tmp_path / place, rows("cifar10", drawn, [3, 1, 4, 1, 5]))
    before = files_below(tmp_path)
    opened: Any = open_dataset("cifar10", "test", data_root=tmp_path, streaming=streaming)
    assert (opened.name, opened.size) == ("cifar10/test", (32, 32))
    assert np.array_equal(stacked(opened), array_of(drawn))
    labels = [label for _, label in opened.pairs()] if streaming else opened.labels.tolist()
    assert labels == [3, 1, 4, 1, 5]
    assert files_below(tmp_path) == before  # no cache among the data


def test_parquet_can_be_read_at_random_and_sent_to_workers(tmp_path: Path) -> None:
    drawn = random_pictures(5, 32, 32)
    write_parquet(tmp_path / "data" / "train-00000-of-00001.parquet", rows("cifar10", drawn, [0] * 5))
    opened = pickle.loads(pickle.dumps(open_dataset("cifar10", data_root=tmp_path)))
    assert len(opened) == 5 and opened.preprocessing == "native"
    for index in (4, 0, -2):
        assert np.array_equal(opened[index].permute(1, 2, 0).numpy(), array_of(drawn)[index])


@pytest.mark.parametrize("streaming", [False, True])
def test_files_come_in_the_order_of_their_numbers(tmp_path: Path, streaming: bool) -> None:
    drawn = random_pictures(6, 32, 32)
    for number in (2, 0, 1):
        part = rows("cifar100", drawn[2 * number : 2 * number + 2], [99 - number] * 2)
        write_parquet(tmp_path / "cifar100" / "data" / f"train-0000{number}-of-00003.parquet", part)
    opened: Any = open_dataset("cifar100", "train", data_root=tmp_path, streaming=streaming)
    assert np.array_equal(stacked(opened), array_of(drawn))
    (tmp_path / "cifar100" / "data" / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(InputError, match="2 of 3 parquet files of split train"):
        open_dataset("cifar100", "train", data_root=tmp_path, streaming=streaming)


def test_pictures_are_cropped_by_the_protocol(tmp_path: Path) -> None:
    drawn = [*random_pictures(1, 30, 70), *random_pictures(1, 9, 8, seed=1), *random_pictures(1, 16, 16, seed=2)]
    write_parquet(tmp_path / "data" / "train-0.parquet", rows("food101", drawn, [0, 100, 50]))
    opened = open_dataset("food101", data_root=tmp_path, resolution=16)
    assert opened.size == (16, 16) and opened.preprocessing == "adm-centre-crop"
    assert np.array_equal(stacked(opened), array_of([pictures.centre_crop(picture, 16) for picture in drawn]))


def test_the_default_resolution_is_the_models(tmp_path: Path) -> None:
    drawn = random_pictures(1, 300, 260)
    write_parquet(tmp_path / "data" / "test-0.parquet", rows("cars", drawn, [195]))
    opened = open_dataset("cars", "test", data_root=tmp_path)
    assert np.array_equal(stacked(opened), array_of([pictures.centre_crop(drawn[0], 256)]))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_set_without_classes_has_no_labels(tmp_path: Path, streaming: bool) -> None:
    drawn = random_pictures(2, 20, 20)
    write_parquet(tmp_path / "data" / "val-0.parquet", rows("coco2014", drawn, []))
    opened: Any = open_dataset("coco2014", data_root=tmp_path, resolution=20, streaming=streaming)
    assert np.array_equal(stacked(opened), array_of(drawn))
    with pytest.raises(InputError, match="coco2014/val: no class labels"):
        _ = next(opened.pairs()) if streaming else opened.labels


def test_orientation_tags_are_not_followed(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[Image.ExifTags.Base.Orientation] = 6
    buffer = io.BytesIO()
    random_pictures(1, 8, 24)[0].save(buffer, "JPEG", exif=exif)
    encoded = {"bytes": buffer.getvalue(), "path": None}
    write_parquet(tmp_path / "data" / "train-0.parquet", rows("birds", [encoded], [0]))  # type: ignore[list-item]
    opened = open_dataset("birds", data_root=tmp_path, resolution=8)
    with Image.open(buffer) as image:
        assert np.array_equal(stacked(opened)[0], np.asarray(image)[:, 8:16])


@pytest.mark.parametrize("streaming", [False, True])
def test_a_broken_picture_is_named_when_it_is_reached(tmp_path: Path, streaming: bool) -> None:
    drawn: list[Any] = [*random_pictures(1, 32, 32), {"bytes": b"no picture", "path": None}]
    write_parquet(tmp_path / "data" / "train-0.parquet", rows("cifar10", drawn, [0, 1]))
    opened = iter(open_dataset("cifar10", data_root=tmp_path, streaming=streaming))
    assert next(opened).shape == (3, 32, 32)
    with pytest.raises(InputError, match=r"cifar10/train, (row|image) 1.*: not a whole picture"):
        next(opened)


def test_an_empty_row_is_named(tmp_path: Path) -> None:
    drawn: list[Any] = [*random_pictures(1, 32, 32), None]
    write_parquet(tmp_path / "data" / "train-0.parquet", rows("cifar10", drawn, [0, 1]))
    with pytest.raises(InputError, match="cifar10/train, row 1: no picture"):
        open_dataset("cifar10", data_root=tmp_path)[1]


@pytest.mark.parametrize("source", ["parquet", "folders"])
def test_workers_share_a_stream_out(tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if source == "parquet":
        drawn = random_pictures(6, 32, 32)
        for number in range(3):
            part = rows("cifar10", drawn[2 * number : 2 * number + 2], [number] * 2)
            write_parquet(tmp_path / "data" / f"train-{number}.parquet", part)
    else:
        drawn = write_folders(tmp_path / "train", 10, side=32)
    seen: list[bytes] = []
    for number in range(2):
        worker = SimpleNamespace(id=number, num_workers=2)
        monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda worker=worker: worker)
        own = [
            image.permute(1, 2, 0).numpy().tobytes()
            for image in open_dataset("cifar10", data_root=tmp_path, streaming=True)
        ]
        assert 0 < len(own) < len(drawn)
        seen += own
    assert sorted(seen) == sorted(picture.tobytes() for picture in drawn)


def test_pictures_of_another_native_size_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "train-0.parquet", rows("cifar10", random_pictures(1, 32, 31), [0]))
    with pytest.raises(InputError, match="row 0: 32x31 pixels; CIFAR-10 has 32x32"):
        open_dataset("cifar10", data_root=tmp_path)[0]


@pytest.mark.parametrize("streaming", [False, True])
def test_labels_out_of_range_are_refused(tmp_path: Path, streaming: bool) -> None:
    table = rows("cifar10", random_pictures(2, 32, 32), [0, 1]).cast_column("label", hub.Value("int64"))
    table = table.map(lambda row: {"label": row["label"] - 1})
    write_parquet(tmp_path / "data" / "train-0.parquet", table)
    opened: Any = open_dataset("cifar10", data_root=tmp_path, streaming=streaming)
    with pytest.raises(InputError, match="label -1; CIFAR-10 has 0 to 9"):
        _ = list(opened.pairs()) if streaming else opened.labels


def test_labels_that_are_text_are_refused(tmp_path: Path) -> None:
    table = rows("cifar10", random_pictures(1, 32, 32), [0]).cast_column("label", hub.Value("string"))
    write_parquet(tmp_path / "data" / "train-0.parquet", table)
    with pytest.raises(InputError, match="whole numbers"):
        _ = open_dataset("cifar10", data_root=tmp_path).labels


@pytest.mark.parametrize("streaming", [False, True])
def test_files_of_another_data_set_are_refused(tmp_path: Path, streaming: bool) -> None:
    write_parquet(tmp_path / "data" / "train-0.parquet", rows("cifar10", random_pictures(1, 32, 32), [0]))
    with pytest.raises(InputError, match=r"train-0\.parquet: no column fine_label, only img, extra, label"):
        open_dataset("cifar100", data_root=tmp_path, streaming=streaming)


@pytest.mark.parametrize("keep", [0, 50, -1])
def test_a_truncated_parquet_is_named(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "data" / "train-0.parquet"
    write_parquet(path, rows("cifar10", random_pictures(1, 32, 32), [0]))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"train-0\.parquet: not a whole parquet file"):
        open_dataset("cifar10", data_root=tmp_path)


def test_damaged_parquet_pages_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data" / "train-0.parquet"
    write_parquet(path, rows("cifar10", random_pictures(4, 32, 32), [0, 1, 2, 3]))
    content = bytearray(path.read_bytes())
    content[4:2000] = bytes(1996)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"data: cannot be read"):
        open_dataset("cifar10", data_root=tmp_path)


def test_opening_is_silent_and_leaves_the_generators_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_parquet(tmp_path / "data" / "train-0.parquet", rows("cifar10", random_pictures(2, 32, 32), [0, 1]))
    capfd.readouterr()
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    opened = open_dataset("cifar10", data_root=tmp_path)
    _ = stacked(opened), opened.labels
    assert torch.equal(torch.get_rng_state(), before[0]) and np.array_equal(np.random.get_state()[1], before[1])
    assert capfd.readouterr() == ("", "")
    assert not hub.utils.are_progress_bars_disabled()


# Folders and archives


def write_folders(directory: Path, classes: int, side: int = 6) -> list[Image.Image]:
    drawn = random_pictures(classes, side, side)
    for number, picture in enumerate(drawn):
        (directory / f"class {number:03d}").mkdir(parents=True)
        picture.save(directory / f"class {number:03d}" / "0.png")
    return drawn


@pytest.mark.parametrize("streaming", [False, True])
def test_folders_of_classes(tmp_path: Path, streaming: bool) -> None:
    drawn = write_folders(tmp_path / "artbench10" / "test", 10)
    opened: Any = open_dataset("artbench10", "test", data_root=tmp_path, resolution=6, streaming=streaming)
    assert (opened.name, opened.size) == ("artbench10/test", (6, 6))
    assert np.array_equal(stacked(opened), array_of(drawn))
    labels = [label for _, label in opened.pairs()] if streaming else opened.labels.tolist()
    assert labels == list(range(10))


def test_folders_of_a_native_set(tmp_path: Path) -> None:
    drawn = write_folders(tmp_path / "test", 10, side=32)
    assert np.array_equal(stacked(open_dataset("cifar10", "test", data_root=tmp_path)), array_of(drawn))
    halved = open_dataset("cifar10", "test", data_root=tmp_path, resolution=16)
    assert np.array_equal(stacked(halved), array_of([pictures.centre_crop(picture, 16) for picture in drawn]))
    assert halved.labels.tolist() == list(range(10)) and halved.preprocessing == "adm-centre-crop"
    write_folders(tmp_path / "train", 10, side=31)
    with pytest.raises(InputError, match="31x31 pixels; CIFAR-10 has 32x32"):
        open_dataset("cifar10", data_root=tmp_path)


def test_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    write_folders(tmp_path / "train", 9)
    with pytest.raises(InputError, match="9 class folders"):
        open_dataset("artbench10", data_root=tmp_path)


def test_a_flat_folder_of_a_set_without_classes(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    random_pictures(1, 20, 30)[0].save(tmp_path / "train" / "1.jpg")
    opened = open_dataset("coco2017", "train", data_root=tmp_path, resolution=10)
    assert len(opened) == 1 and opened.size == (10, 10) and not opened.has_labels


def test_cifars_own_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3072), dtype=np.uint8)
    content = pickle.dumps({b"data": pixels, b"labels": [7, 0, 9]}, protocol=3)
    path = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo("cifar-10-batches-py/test_batch")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    with pytest.raises(InputError, match="MD5"):
        open_dataset("cifar10", "test", data_root=tmp_path)
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    archive = dataclasses.replace(cifar_archive.ARCHIVES["cifar10"], md5=md5)
    monkeypatch.setitem(cifar_archive.ARCHIVES, "cifar10", archive)
    opened = open_dataset("cifar10", "test", data_root=tmp_path)
    assert np.array_equal(torch.stack(list(opened)).flatten(1).numpy(), pixels)
    assert opened.labels.tolist() == [7, 0, 9] and opened.name == "cifar10/test"


def test_nothing_there_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data/train-\*\.parquet.*cifar-10-python\.tar\.gz and the folder train"):
        open_dataset("cifar10", data_root=tmp_path)
    with pytest.raises(InputError, match="nowhere: no such folder"):
        open_dataset("cifar10", data_root=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("made", "found"),
    [
        ("cifar10/plain_text/test-0.parquet", "cifar10/plain_text"),
        ("cifar-10-python.tar.gz", "cifar-10-python.tar.gz"),
        ("cifar10/cifar-10-batches-py/test_batch", "cifar10/cifar-10-batches-py"),
        ("test/cat/0.png", "test"),
        ("train/cat/0.png", None),
    ],
)
def test_where_a_split_lies(tmp_path: Path, made: str, found: str | None) -> None:
    (tmp_path / made).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / made).touch()
    assert datasets.locate("cifar10", "test", tmp_path) == (None if found is None else tmp_path / found)


def test_open_images_passes_on_what_was_asked_for(tmp_path: Path) -> None:
    drawn = random_pictures(2, 32, 32)
    write_parquet(tmp_path / "data" / "test-0.parquet", rows("cifar10", drawn, [0, 1]))
    opened = images.open_images("cifar10", data_root=tmp_path, split="test", resolution=16)
    assert opened.name == "cifar10/test"
    assert np.array_equal(stacked(opened), array_of([pictures.centre_crop(picture, 16) for picture in drawn]))


# The hub


@pytest.mark.parametrize("streaming", [False, True])
def test_without_a_network_one_line_says_what_to_do(streaming: bool) -> None:
    with pytest.raises(InputError) as caught:
        open_dataset("cifar10", streaming=streaming)
    message = str(caught.value)
    assert "uoft-cs/cifar10" in message and "Couldn't reach the hub" in message and "\n" not in message
    assert "hf download uoft-cs/cifar10 --repo-type dataset --local-dir DIR/cifar10" in message
    assert "--data-root DIR" in message and "terms" not in message
    with pytest.raises(InputError, match="accept its terms"):
        open_dataset("imagenet")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """A hub that has two images of every split; what it was asked for."""
    calls: list[Any] = []

    def load_dataset(hub_id: str, config: str, *, split: str, streaming: bool) -> Any:
        calls.append((hub_id, config, split, streaming))
        table = rows("cifar100", random_pictures(2, 32, 32), [5, 99])
        return table.to_iterable_dataset() if streaming else table

    monkeypatch.setattr(hub, "load_dataset", load_dataset)
    monkeypatch.setitem(DATASETS, "cifar100", dataclasses.replace(DATASETS["cifar100"], splits={"train": 3, "test": 2}))
    return calls


@pytest.mark.parametrize("streaming", [False, True])
def test_the_hubs_copy(asked: list[Any], streaming: bool) -> None:
    opened: Any = open_dataset("cifar100", "test", streaming=streaming)
    assert asked == [("uoft-cs/cifar100", "cifar100", "test", streaming)]
    assert np.array_equal(stacked(opened), array_of(random_pictures(2, 32, 32)))
    assert ([label for _, label in opened.pairs()] if streaming else opened.labels.tolist()) == [5, 99]


def test_a_hub_copy_that_has_changed_is_refused(asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="has 2 images in split train, expected 3"):
        open_dataset("cifar100", "train")
    monkeypatch.setitem(DATASETS, "cifar10", dataclasses.replace(DATASETS["cifar10"], splits={"train": 2}))
    with pytest.raises(InputError, match="uoft-cs/cifar10: no column label, only img, extra, fine_label"):
        open_dataset("cifar10")


def test_splits_that_the_hub_lacks_are_named() -> None:
    with pytest.raises(InputError, match=r"no images of split train; put them into DIR/coco2014/train"):
        open_dataset("coco2014", "train")
