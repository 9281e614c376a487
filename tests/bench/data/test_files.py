"""Image sets from tensors, .npz files, shards and folders: the same pixels, and clear refusals."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.data import files, image_set, preprocessing, shards, sources
from bench.data.folder import open_folder
from bench.data.sets import digits
from dydit import InputError

Stacked = Callable[[image_set.Images], np.ndarray]


def random_pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_tensors_come_back_image_by_image() -> None:
    array = random_pixels(5, 3, 4, 6)
    opened = image_set.of_tensor(torch.from_numpy(array), "made here", torch.arange(5, dtype=torch.uint8))
    assert (opened.name, opened.size, len(opened)) == ("made here", (4, 6), 5)
    assert opened.preprocessing == preprocessing.NATIVE
    assert np.array_equal(torch.stack(list(opened)).numpy(), array)
    assert np.array_equal(opened[-2].numpy(), array[3])
    assert opened.has_labels and opened.labels.dtype == torch.int64 and opened.labels.tolist() == [0, 1, 2, 3, 4]
    for index in (5, -6):
        with pytest.raises(IndexError, match="of 5"):
            opened[index]


def test_grey_is_repeated() -> None:
    array = random_pixels(2, 1, 4, 4)
    opened = image_set.of_tensor(torch.from_numpy(array), "grey")
    assert np.array_equal(opened[1].numpy(), np.repeat(array[1], 3, axis=0))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(2, 3, 4, 4), "float32"),
        (torch.full((2, 3, 4, 4), torch.nan), "NaN"),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), "shape"),
        (torch.zeros(2, 4, 4, 3, dtype=torch.uint8), "C = 1 or 3"),
        (torch.zeros(0, 3, 4, 4, dtype=torch.uint8), "none empty"),
    ],
)
def test_other_tensors_are_refused(tensor: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=f"^these: .*{message}"):
        image_set.of_tensor(tensor, "these")


@pytest.mark.parametrize("labels", [torch.zeros(3, dtype=torch.int64), torch.zeros(2)])
def test_labels_are_one_integer_an_image(labels: torch.Tensor) -> None:
    with pytest.raises(InputError, match="labels are"):
        image_set.of_tensor(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "these", labels)


def test_asking_for_labels_that_are_not_known_is_refused() -> None:
    opened = image_set.of_tensor(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "these")
    assert not opened.has_labels
    with pytest.raises(InputError, match="these: no class labels"):
        _ = opened.labels


# .npz


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path: Path, channels: int, save: object, stacked: Stacked) -> None:
    array = random_pixels(5, 4, 6, channels)
    save(tmp_path / "a.npz", arr_0=array, arr_1=np.arange(5, dtype=np.int32))
    opened = sources.open_images(tmp_path / "a.npz")
    assert (opened.name, opened.size, len(opened)) == (str(tmp_path / "a.npz"), (4, 6), 5)
    assert np.array_equal(stacked(opened), np.broadcast_to(array, (5, 4, 6, 3)))
    assert opened.labels.dtype == torch.int64 and opened.labels.tolist() == [0, 1, 2, 3, 4]


def test_npz_in_fortran_order_and_without_labels(tmp_path: Path, stacked: Stacked) -> None:
    array = random_pixels(5, 4, 6, 3)
    np.savez(tmp_path / "a.npz", mu=np.zeros(9), arr_0=np.asfortranarray(array))
    opened = sources.open_images(tmp_path / "a.npz")
    assert np.array_equal(stacked(opened), array)
    assert not opened.has_labels


def test_an_uncompressed_npz_is_mapped_and_the_map_is_not_sent_along(tmp_path: Path, stacked: Stacked) -> None:
    array = random_pixels(50, 32, 32, 3)
    np.savez(tmp_path / "a.npz", array)
    opened = sources.open_images(tmp_path / "a.npz")
    first = opened[0]
    sent = pickle.dumps(opened)  # what a worker process of a DataLoader gets
    assert len(sent) < 2000 < array.nbytes
    arrived = pickle.loads(sent)
    assert torch.equal(arrived[0], first) and np.array_equal(stacked(arrived), array)


def test_changing_an_image_does_not_change_the_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", np.zeros((2, 4, 4, 3), np.uint8))
    opened = sources.open_images(tmp_path / "a.npz")
    opened[0].fill_(9)
    assert opened[0].sum() == 0


@pytest.mark.parametrize(
    ("array", "name"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), "arr_0"),
        (np.zeros((2, 4, 4), np.uint8), "arr_0"),
        (np.zeros((2, 3, 4, 4), np.uint8), "arr_0"),
        (np.zeros((0, 4, 4, 3), np.uint8), "arr_0"),
        (np.full((2, 4, 4, 3), None), "arr_0"),
        (np.zeros((2, 4, 4, 3), np.uint8), "images"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, array: np.ndarray, name: str) -> None:
    np.savez(tmp_path / "a.npz", **{name: array})
    with pytest.raises(InputError, match=r"a\.npz: .*arr_0"):
        sources.open_images(tmp_path / "a.npz")


@pytest.mark.parametrize("labels", [np.zeros(3, np.int64), np.zeros(2), np.array(["cat", "dog"])])
def test_other_labels_are_refused(tmp_path: Path, labels: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", np.zeros((2, 4, 4, 3), np.uint8), labels)
    opened = sources.open_images(tmp_path / "a.npz")  # no metric needs labels
    assert len(opened) == 2 and opened[0].shape == (3, 4, 4)
    with pytest.raises(InputError, match=r"a\.npz: arr_1 is"):
        _ = opened.labels


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("keep", [0, 10, 200, -1])
def test_a_truncated_npz_is_refused(tmp_path: Path, save: object, keep: int) -> None:
    path = tmp_path / "a.npz"
    save(path, random_pixels(2, 8, 8, 3))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"a\.npz: (no whole|an empty file)"):
        sources.open_images(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("piece", [100, 2**24])
def test_damaged_pixels_are_refused(tmp_path: Path, save: object, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_PIECE", piece)
    path = tmp_path / "a.npz"
    save(path, random_pixels(20, 32, 32, 3))
    assert len(sources.open_images(path)) == 20
    content = bytearray(path.read_bytes())
    content[50_000] ^= 1  # far behind what is read with the headers
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.npz: no whole"):
        sources.open_images(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("member", [0, 1])
def test_another_checksum_is_refused(tmp_path: Path, save: object, member: int) -> None:
    path = tmp_path / "a.npz"
    save(path, np.zeros((20, 32, 32, 3), np.uint8), np.zeros(20, np.int64))
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")  # the directory at the end, which has the CRC-32 from byte 16 on
    if member:
        entry = content.index(b"PK\x01\x02", entry + 1)
    content[entry + 16] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.npz: (no whole|arr_1 holds no labels) .*CRC"):
        _ = sources.open_images(path).labels


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("count", [60, 200])  # 96 bytes belong to the shape
def test_an_array_shorter_or_longer_than_its_shape_is_refused(tmp_path: Path, method: int, count: int) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", method) as archive, archive.open("arr_0.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": (2, 4, 4, 3)})
        member.write(bytes(count))
    with pytest.raises(InputError, match=r"a\.npz: no whole"):
        sources.open_images(path)


# Shards


def write_run(directory: Path, array: np.ndarray, unit: int) -> shards.Manifest:
    manifest = shards.Manifest(len(array), unit, array.shape[1:], {"seed": 0}, {})
    shards.write_manifest(directory, manifest)
    for number in range(manifest.units):
        rows = manifest.indices(number)
        labels = np.arange(rows.start, rows.stop, dtype=np.int64) * 3
        shards.write_unit(directory, manifest, number, array[rows.start : rows.stop], labels)
    return manifest


@pytest.mark.parametrize("channels", [1, 3])
def test_shards(tmp_path: Path, channels: int, stacked: Stacked) -> None:
    array = random_pixels(7, 4, 6, channels)
    write_run(tmp_path, array, 3)
    opened = sources.open_images(tmp_path)
    assert (opened.name, opened.size, len(opened)) == (str(tmp_path), (4, 6), 7)
    assert np.array_equal(stacked(opened), np.broadcast_to(array, (7, 4, 6, 3)))
    for index in (6, 0, 3, 2):
        assert np.array_equal(opened[index][0].numpy(), array[index, :, :, 0])
    assert opened.labels.tolist() == [0, 3, 6, 9, 12, 15, 18]
    assert torch.equal(pickle.loads(pickle.dumps(opened))[5], opened[5])


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    manifest = write_run(tmp_path, random_pixels(7, 4, 4, 3), 3)
    shards.unit_path(tmp_path, 1).unlink()
    assert manifest.units == 3
    with pytest.raises(InputError, match="1 of 3 units are missing, the first is 1"):
        sources.open_images(tmp_path)


def test_a_manifest_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match=r"manifest\.json"):
        sources.open_images(tmp_path)


# Folders


def draw(path: Path, array: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path: Path, stacked: Stacked) -> None:
    array = random_pixels(5, 4, 6, 3)
    draw(tmp_path / "b" / "2.PNG", array[3])
    draw(tmp_path / "b" / "10.bmp", array[2])
    draw(tmp_path / "c.webp", array[4], lossless=True)
    draw(tmp_path / "a" / "deep" / "x.png", array[1])
    draw(tmp_path / "a.png", array[0])
    draw(tmp_path / ".hidden" / "y.png", array[0])
    draw(tmp_path / "b" / "._2.png", array[0])
    (tmp_path / "notes.txt").write_text("no picture")
    opened = sources.open_images(tmp_path)
    assert (opened.size, len(opened), opened.has_labels) == ((4, 6), 5, False)
    assert np.array_equal(stacked(opened), array)


def test_jpeg_and_grey_files(tmp_path: Path) -> None:
    grey = random_pixels(4, 4)
    draw(tmp_path / "a.png", grey)
    draw(tmp_path / "b.jpg", np.full((4, 4, 3), 77, np.uint8), quality=100)
    opened = sources.open_images(tmp_path)
    assert np.array_equal(opened[0].numpy(), np.broadcast_to(grey, (3, 4, 4)))
    assert (opened[1].int() - 77).abs().max() <= 1


def test_class_folders_may_be_links(tmp_path: Path) -> None:
    draw(tmp_path / "elsewhere" / "x.png", random_pixels(4, 4, 3))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert len(sources.open_images(tmp_path / "set")) == 1


def test_mixed_resolutions_are_refused_unless_cropped(tmp_path: Path, stacked: Stacked) -> None:
    draw(tmp_path / "a.png", random_pixels(8, 8, 3))
    path = draw(tmp_path / "b.png", random_pixels(8, 12, 3))
    with pytest.raises(InputError, match=r"a\.png is 8x8 pixels, .*b\.png is 8x12"):
        sources.open_images(tmp_path)
    opened = sources.open_images(tmp_path, resolution=4)
    assert opened.size == (4, 4) and opened.preprocessing == preprocessing.PREPROCESSING
    with Image.open(path) as image:
        assert np.array_equal(stacked(opened)[1], np.asarray(preprocessing.centre_crop(image, 4)))


def test_a_broken_header_is_named_on_opening(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", random_pixels(8, 8, 3))
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(InputError, match=r"b\.png: not a picture"):
        sources.open_images(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_broken_pixels_are_named_on_reading(tmp_path: Path, damage: str) -> None:
    draw(tmp_path / "a.png", random_pixels(8, 8, 3))
    path = draw(tmp_path / "b.png", random_pixels(32, 32, 3))
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[200] ^= 255
    path.write_bytes(content[:400] if damage == "cut" else content)
    opened = sources.open_images(tmp_path, resolution=8)
    assert opened[0].shape == (3, 8, 8)
    with pytest.raises(InputError, match=r"b\.png: not a whole picture"):
        opened[1]


def test_a_file_that_changed_its_size_is_refused(tmp_path: Path) -> None:
    path = draw(tmp_path / "a.png", random_pixels(8, 8, 3))
    opened = sources.open_images(tmp_path)
    draw(path, random_pixels(8, 9, 3))
    with pytest.raises(InputError, match=r"a\.png: changed to 8x9"):
        opened[0]


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(InputError, match="no picture files"):
        sources.open_images(tmp_path)


def test_class_folders_give_labels_by_name(tmp_path: Path) -> None:
    for name, count in (("wolf", 2), ("ape", 1), ("cat", 1)):
        for number in range(count):
            draw(tmp_path / name / f"{number}.png", random_pixels(4, 4, 3))
    opened = open_folder(tmp_path, "animals", labelled=True, classes=3)
    assert opened.labels.tolist() == [0, 1, 2, 2]
    with pytest.raises(InputError, match="3 class folders"):
        open_folder(tmp_path, "animals", labelled=True, classes=4)
    draw(tmp_path / "stray.png", random_pixels(4, 4, 3))
    with pytest.raises(InputError, match=r"stray\.png"):
        open_folder(tmp_path, "animals", labelled=True, classes=3)


# What to open


def test_digits_by_name_and_a_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = digits.load_digits()
    opened = sources.open_images("digits")
    assert torch.equal(torch.stack(list(opened))[:, 1:2], data.images) and torch.equal(opened.labels, data.labels)
    draw(tmp_path / "digits" / "a.png", random_pixels(4, 4, 3))
    monkeypatch.chdir(tmp_path)
    assert len(sources.open_images("digits")) == 1797
    assert len(sources.open_images("./digits")) == 1


def test_names_are_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "a.npz", np.zeros((2, 4, 4, 3), np.uint8))
    monkeypatch.chdir(tmp_path)
    opened = sources.open_images("a.npz")
    assert opened.name == "a.npz"
    monkeypatch.chdir("/")
    assert opened[1].shape == (3, 4, 4)  # found again from elsewhere


def test_nothing_there_lists_the_data_sets() -> None:
    with pytest.raises(InputError, match=r"nowhere\.npz: no such file or folder.*imagenet, cifar10"):
        sources.open_images("nowhere.npz")


def test_a_split_of_a_file_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", np.zeros((2, 4, 4, 3), np.uint8))
    with pytest.raises(InputError, match="split train"):
        sources.open_images(tmp_path / "a.npz", split="train")


def test_finished_images_are_not_resized(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", np.zeros((2, 4, 4, 3), np.uint8))
    assert len(sources.open_images(tmp_path / "a.npz", resolution=4)) == 2
    with pytest.raises(InputError, match="4x4 pixels, asked for 8x8"):
        sources.open_images(tmp_path / "a.npz", resolution=8)
