"""Folders of pictures as users have them: each picture once, nothing passed over without a word, classes told."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from PIL import Image

from bench.data import shards, sources
from bench.data.folder import open_folder, picture_files
from bench.data.image_set import describe_classes
from bench.data.preprocessing import LARGEST, read_suffixes
from dydit import InputError


def picture(path: Path, side: int = 8, value: int = 7) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), (value, 0, 0)).save(path)
    return path


def names(directory: Path) -> list[str]:
    return [path.relative_to(directory).as_posix() for path in picture_files(directory)]


def test_folders_that_contain_themselves_are_entered_once(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/2.png"):
        picture(tmp_path / name)
    for link, target in (("a/up", ".."), ("b/self", "."), ("c", "a")):
        (tmp_path / link).symlink_to(target)
    found = names(tmp_path)
    assert len(found) == 2 and {Path(name).name for name in found} == {"1.png", "2.png"}


def test_a_linked_class_folder_is_read_and_a_linked_picture_counts_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(tmp_path / "elsewhere" / "1.png")
    root = tmp_path / "root"
    picture(root / "dog" / "2.png")
    (root / "cat").symlink_to(tmp_path / "elsewhere")
    (root / "dog" / "again.png").symlink_to(root / "dog" / "2.png")
    assert names(root) == ["cat/1.png", "dog/2.png"]
    assert "1 links to pictures that are there already count once" in capsys.readouterr().err


def test_hidden_files_are_passed_over(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.png")
    (tmp_path / "a" / "._1.png").write_bytes(b"resource fork")
    picture(tmp_path / ".thumbnails" / "1.png")
    assert names(tmp_path) == ["a/1.png"]
    assert sources.open_labelled(str(tmp_path), 8).labels.tolist() == [0]


def test_pictures_of_formats_that_are_not_read_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(tmp_path / "1.png")
    for name in ("2.heic", "3.HEIC", "4.gif", "notes.txt"):
        (tmp_path / name).write_bytes(b"?")
    assert names(tmp_path) == ["1.png"]
    told = capsys.readouterr().err
    assert "2 .heic files are passed over" in told and "1 .gif files" in told and "txt" not in told


def test_every_suffix_that_is_read_is_read(tmp_path: Path) -> None:
    formats = {".jfif": "JPEG", ".pgm": "PPM"}
    for suffix in read_suffixes():
        Image.new("L" if suffix == ".pgm" else "RGB", (8, 8)).save(
            tmp_path / f"x{suffix.upper()}", format=formats.get(suffix)
        )
    opened = open_folder(tmp_path, "all")
    assert len(opened) == len(read_suffixes()) and all(image.shape == (3, 8, 8) for image in opened)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "1.png")
    link = tmp_path / "dead.png"
    link.symlink_to("nowhere.png")
    with pytest.raises(InputError, match=r"dead\.png: a link that leads nowhere"):
        picture_files(tmp_path)
    link.unlink()
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match=r"pipe\.png: a device or pipe"):
        picture_files(tmp_path)


def test_folders_with_numbers_are_labels_and_others_are_sorted(tmp_path: Path) -> None:
    for number in (0, 2, 10):
        picture(tmp_path / "numbered" / str(number) / "1.png")
    opened = sources.open_labelled(str(tmp_path / "numbered"), 8)
    assert opened.labels.tolist() == [0, 10, 2]
    assert describe_classes(opened.classes) == "3 classes: 0 = 0 (1), 2 = 2 (1), 10 = 10 (1)"
    for name in ("dog", "10", "cat"):
        picture(tmp_path / "mixed" / name / "1.png")
    assert sources.open_labelled(str(tmp_path / "mixed"), 8).labels.tolist() == [0, 1, 2]
    picture(tmp_path / "numbered" / "02" / "1.png")
    with pytest.raises(InputError, match="two folders stand for one class number"):
        sources.open_labelled(str(tmp_path / "numbered"), 8)


@pytest.mark.parametrize("parts", [("train", "val"), ("Training", "TEST"), ("train",)])
def test_parts_of_a_data_set_are_no_classes(tmp_path: Path, parts: tuple[str, ...]) -> None:
    for name in parts:
        picture(tmp_path / name / "cat" / "1.png")
    with pytest.raises(InputError, match="the parts of a data set and not classes; give one of them"):
        sources.open_labelled(str(tmp_path), 8)
    assert len(sources.open_images(tmp_path)) == len(parts)  # without classes they are pictures like others


def test_a_manifest_of_another_tool_does_not_make_a_run(tmp_path: Path) -> None:
    picture(tmp_path / "1.png")
    (tmp_path / shards.MANIFEST).write_text('{"name": "export", "files": ["1.png"]}')
    assert len(sources.open_images(tmp_path)) == 1


def sixteen_bit_png(path: Path, colour_type: int) -> None:
    """A 4 x 4 PNG with 16 bits a channel: grey (0), RGB (2) or RGBA (6)."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    channels = {0: 1, 2: 3, 6: 4}[colour_type]
    rows = b"".join(b"\0" + bytes(2 * 4 * channels) for _ in range(4))
    header = struct.pack(">IIBBBBB", 4, 4, 16, colour_type, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("colour_type", [0, 2, 6])
def test_pictures_of_16_bits_are_refused_whatever_their_colours(tmp_path: Path, colour_type: int) -> None:
    sixteen_bit_png(tmp_path / "deep.png", colour_type)
    with pytest.raises(InputError, match=r"deep\.png: more than 8 bits a channel"):
        open_folder(tmp_path, "deep")


def test_memory_does_not_follow_a_pictures_shape(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((1, 30_000, 3), np.uint8)).save(tmp_path / "thin.png")
    assert LARGEST < 256 * 256 * 30_000
    with pytest.raises(InputError, match=r"thin\.png: 1x30000 pixels; bringing it to 256 pixels"):
        open_folder(tmp_path, "thin", 256)


def test_mixed_sizes_name_no_option_that_does_not_exist(tmp_path: Path) -> None:
    picture(tmp_path / "1.png", 8)
    picture(tmp_path / "2.png", 9)
    with pytest.raises(InputError, match=r"1\.png is 8x8 pixels, .*2\.png is 9x9; .*bring them to one"):
        open_folder(tmp_path, "mixed")


WRITERS: dict[str, Callable[[BinaryIO], Any]] = {
    "holds statistics .*--reference": lambda file: np.savez(file, mu=np.zeros(3), sigma=np.eye(3)),
    "holds arrays images, none of them arr_0": lambda file: np.savez(file, images=np.zeros(3)),
    r"NumPy array \(.npy\).*np.savez": lambda file: np.save(file, np.zeros((2, 4, 4, 3), np.uint8)),
    "PNG picture, one image; give the folder": lambda file: Image.new("RGB", (8, 8)).save(file, format="PNG"),
    "gzip archive.*unpack it": lambda file: file.write(b"\x1f\x8b" + bytes(50)),
}


@pytest.mark.parametrize("words", WRITERS)
def test_another_kind_of_file_is_called_what_it_is(tmp_path: Path, words: str) -> None:
    with (tmp_path / "x.npz").open("wb") as file:
        WRITERS[words](file)
    with pytest.raises(InputError, match=words):
        sources.open_images(tmp_path / "x.npz")
