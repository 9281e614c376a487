"""Damaged files end in one line: readers raise InputError and nothing else, whatever the bytes are."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from bench.data import shards, sources
from bench.data.folder import open_folder
from bench.data.sets.catalogue import read_datasets
from bench.data.sets.fashion import load_fashion
from bench.data.sets.opening import open_stream
from bench.inspection.inspect_file import inspect
from bench.quality.references.manifest import load_manifest
from bench.quality.references.pins import read_pins
from bench.quality.references.reference import read_reference
from bench.records import read_arrays, read_run, read_table, shipped_data
from bench.training.checkpoints import read_whole
from bench.training.latents import open_latents
from bench.training.log import Logs, training_outcome
from dydit import DyDiT, InputError, checkpoint
from dydit.training import Recipe

TINY = {"input_size": 4, "patch_size": 2, "in_channels": 1, "hidden_size": 8, "depth": 1, "num_heads": 2}
IMAGES, LABELS = np.zeros((3, 4, 4, 3), np.uint8), np.arange(3)
Mutation = tuple[str, float, bytes]
mutations = st.lists(
    st.tuples(
        st.sampled_from(["cut", "flip", "insert", "repeat"]),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=12),
    ),
    min_size=1,
    max_size=4,
)


def mutated(content: bytes, steps: list[Mutation]) -> bytes:
    for kind, share, noise in steps:
        place = int(share * len(content))
        if kind == "cut":
            content = content[:place]
        elif kind == "flip":
            content = content[:place] + noise + content[place + len(noise) :]
        elif kind == "insert":
            content = content[:place] + noise + content[place:]
        else:
            content = content[:place] + content[place : place + 64] * 2 + content[place + 64 :]
    return content


def network() -> DyDiT:
    return DyDiT(**TINY, num_classes=3)


def pytorch(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def run_manifest() -> bytes:
    content = {"count": 3, "unit": 2, "shape": [4, 4, 1], "identity": {"seed": 0}, "record": {}}
    return json.dumps({"schema_version": shards.SCHEMA_VERSION, **content}).encode()


def picture(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(file, kind)
    return file.getvalue()


def parquet() -> bytes:
    """Two rows of CIFAR-10 as the hub has them."""
    file, stored = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (32, 32), (10, 20, 30)).save(stored, "PNG")
    rows = [{"bytes": stored.getvalue(), "path": None}] * 2
    pyarrow.parquet.write_table(pyarrow.table({"img": rows, "label": [3, 5]}), file)
    return file.getvalue()


def read_parquet(path: Path) -> object:
    (path.parent / "data").mkdir()
    path.rename(path.parent / "data" / "test-00000-of-00001.parquet")
    return list(open_stream("cifar10", "test", data_root=path.parent))


def latents_manifest() -> bytes:
    return json.dumps({"schema_version": 1, "count": 3, "unit": 2, "shape": [4, 8, 8], "sha256": {}}).encode()


def training_checkpoint() -> bytes:
    return pytorch({"schema_version": 1, "identity": {"recipe": {}}, "training": {"step": 3, "model": torch.zeros(2)}})


def text(name: str) -> Callable[[], bytes]:
    return lambda: (shipped_data() / name).read_bytes()


def read_folder(name: str, read: Callable[[Path], object]) -> Callable[[Path], object]:
    """A reader of a directory that holds the file under this name."""

    def reader(path: Path) -> object:
        path.rename(path.with_name(name))
        return read(path.parent)

    return reader


def read_log(folder: Path) -> object:
    with Logs.opened(folder, 3, {}) as logs:
        return training_outcome(logs.texts["log.csv"], Recipe(1, 1, 0))


CASES: dict[str, tuple[Callable[[], bytes], str, Callable[[Path], object]]] = {
    "state dict": (lambda: pytorch(network().state_dict()), "x.pt", checkpoint.load_model),
    "training checkpoint": (
        lambda: pytorch({"ema": network().state_dict(), "opt": {"step": 1}}),
        "x.ckpt",
        checkpoint.load_model,
    ),
    "safetensors": (lambda: save(dict(network().state_dict())), "x.safetensors", checkpoint.load_model),
    "own file": (
        lambda: (shipped_data() / "digits" / "dydit-m-0.5-s1.safetensors").read_bytes(),
        "x.safetensors",
        lambda path: inspect(str(path)),
    ),
    "images": (
        lambda: npz(arr_0=np.zeros((3, 4, 4, 3), np.uint8), arr_1=np.arange(3)),
        "x.npz",
        lambda path: sources.open_images(path)[0],
    ),
    "labels": (
        lambda: npz(arr_0=np.zeros((3, 4, 4, 3), np.uint8), arr_1=np.arange(3)),
        "x.npz",
        lambda path: sources.open_images(path).labels,
    ),
    "statistics": (lambda: npz(mu=np.zeros(3), sigma=np.eye(3)), "x.npz", read_reference),
    "manifest of a run": (run_manifest, "x", read_folder("manifest.json", shards.read_manifest)),
    "run record": (lambda: b'{"schema_version": 1, "command": "x"}', "x", read_folder("run.json", read_run)),
    "picture": (lambda: picture("PNG"), "x.png", lambda path: open_folder(path.parent, "x")[0]),
    "picture with loss": (lambda: picture("JPEG"), "x.jpg", lambda path: open_folder(path.parent, "x", 8)[0]),
    "parquet": (parquet, "x", read_parquet),
    "packed images": (
        lambda: gzip.compress(bytes(2000), mtime=0),
        "t10k-images-idx3-ubyte.gz",
        lambda path: load_fashion("test", path.parent),
    ),
    "unit": (
        lambda: npz(images=IMAGES, labels=LABELS),
        "x.npz",
        lambda path: read_arrays(path, "images", "labels", remedy="remove it"),
    ),
    "pins": (lambda: b'{"schema_version": 1, "pins": {}}', "x", read_folder("pins.json", read_pins)),
    "latents": (latents_manifest, "x", read_folder("latents.json", open_latents)),
    "log": (
        lambda: b"step,loss,ratio,gradient_norm,target,skipped\n0,1.0,1.0,1.0,1.0,False\n",
        "x",
        read_folder("log.csv", read_log),
    ),
    "checkpoint of a training": (training_checkpoint, "x.pt", read_whole),
    "table": (lambda: b"a,b\n1,2\n", "x", read_folder("t.csv", lambda path: read_table(path, "t"))),
    "data sets": (text("datasets.toml"), "x.toml", read_datasets),
    "references": (text("manifest.toml"), "x.toml", load_manifest),
}


def corpus_file(reader: str) -> Path:
    """The archive of the files of one reader that fuzz.py kept."""
    return Path(__file__).parent / "corpus" / f"{reader.replace(' ', '-')}.zip"


def corpus(reader: str) -> list[bytes]:
    """What fuzz.py found to reach new lines of a reader; nothing for readers whose files are too long for it."""
    if not corpus_file(reader).exists():
        return []
    with zipfile.ZipFile(corpus_file(reader)) as archive:
        return [archive.read(name) for name in archive.namelist()]


DEEP = b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
"""JSON nested deeper than the interpreter's stack; TOML takes the inner part."""


@pytest.mark.parametrize(
    ("content", "name", "read"),
    [
        (DEEP, "x", read_folder("manifest.json", shards.read_manifest)),
        (DEEP, "x", read_folder("latents.json", open_latents)),
        (DEEP, "x", read_folder("run.json", read_run)),
        (DEEP, "x", read_folder("model.safetensors.index.json", checkpoint.read)),
        (save({"w": torch.zeros(1)}, {"record": DEEP.decode()}), "x.safetensors", checkpoint.read),
        (b"a = " + DEEP[6:-1], "x.toml", read_datasets),
    ],
)
def test_deeply_nested_text_ends_in_one_line(
    content: bytes, name: str, read: Callable[[Path], object], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / name
    path.write_bytes(content)
    with pytest.raises(InputError):
        read(path)


def claiming(name: str, shape: tuple[int, ...], dtype: str, **others: Any) -> bytes:
    """A .npz whose member `name` is a header that claims this shape, followed by eight bytes."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": shape})
    file = io.BytesIO(npz(**others))
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.npy", header.getvalue() + bytes(8))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "read"),
    [
        (claiming("arr_0", (10**7, 1000, 1000, 3), "|u1"), sources.open_images),
        (
            claiming("arr_1", (10**13,), "<i8", arr_0=np.zeros((3, 4, 4, 3), np.uint8)),
            lambda path: sources.open_images(path).labels,
        ),
        (claiming("mu", (10**13,), "<f8", sigma=np.eye(3)), read_reference),
        (claiming("sigma", (10**7, 10**7), "<f8", mu=np.zeros(3)), read_reference),
        (claiming("features", (10**12, 3), "<f4", mu=np.zeros(3), sigma=np.eye(3)), read_reference),
    ],
)
def test_a_header_cannot_claim_memory(content: bytes, read: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"claims|has 8 bytes"):
        read(path)


ARCHIVES: dict[str, tuple[Callable[[], bytes], str, Callable[[Path], object]]] = {
    "images": (lambda: npz(arr_0=IMAGES), "arr_0.npy", sources.open_images),
    "labels": (lambda: npz(arr_0=IMAGES, arr_1=LABELS), "arr_1.npy", lambda path: sources.open_images(path).labels),
    "statistics": (lambda: npz(mu=np.zeros(3), sigma=np.eye(3)), "mu.npy", read_reference),
    "unit": (
        CASES["unit"][0],
        "images.npy",
        lambda path: read_arrays(path, "images", remedy="remove it"),
    ),
    "weights": (lambda: pytorch(network().state_dict()), "archive/data.pkl", checkpoint.load_model),
}


@pytest.mark.parametrize("case", ARCHIVES)
@pytest.mark.filterwarnings("ignore:Duplicate name")  # zipfile's, while it is written
def test_two_members_of_one_name_and_encrypted_ones_are_refused(case: str, tmp_path: Path) -> None:
    make, member, read = ARCHIVES[case]
    twice = io.BytesIO(make())
    with zipfile.ZipFile(twice, "a") as archive:
        archive.writestr(member, archive.read(member))
    encrypted = bytearray(make())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        encrypted[encrypted.index(signature) + flags] |= 1
    for content in (twice.getvalue(), bytes(encrypted)):
        path = tmp_path / ("x.pt" if case == "weights" else "x.npz")
        path.write_bytes(content)
        with pytest.raises(InputError):
            read(path)


@pytest.mark.parametrize(
    ("content", "name", "read", "message"),
    [
        (b'{"count": 1e999}', "manifest.json", shards.read_manifest, "the number 1e999"),
        (b'{"count": NaN}', "latents.json", open_latents, "the number NaN"),
        (b'{"schema_version": 1, "schema_version": 1}', "run.json", read_run, "the key 'schema_version' twice"),
        (latents_manifest().replace(b"3", b"1000000000000"), "latents.json", open_latents, "count is '1000000000000'"),
        (latents_manifest().replace(b"3", b"8.7"), "latents.json", open_latents, "count is '8.7'"),
        (latents_manifest().replace(b": 1,", b': "9",'), "latents.json", open_latents, "schema_version is '9'"),
        (b"\xff\xfe", "log.csv", read_log, "not a log"),
    ],
)
def test_numbers_that_cannot_be_are_refused_by_name(
    content: bytes, name: str, read: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 2.5}, "depth = 2.5"),
        ({"num_classes": 10**12}, "it must be at most 1,000,000"),
        ({"mlp_ratio": 1e300}, "mlp_hidden = "),
        ({"input_size": 2**40}, "it must be at most 1,024"),
    ],
)
def test_a_recorded_network_beyond_all_measure_is_refused(
    change: dict[str, float], message: str, tmp_path: Path
) -> None:
    record = {"kind": "DyDiT", "config": json.dumps({**network().config.kwargs(), **change})}
    checkpoint.write_tensors(tmp_path / "x.safetensors", network().state_dict(), record)
    with pytest.raises(InputError, match=message):
        checkpoint.load_model(tmp_path / "x.safetensors")


def test_the_name_of_a_weight_cannot_claim_a_depth(tmp_path: Path) -> None:
    state = network().state_dict()
    checkpoint.write_tensors(tmp_path / "x.safetensors", {**state, "blocks.999999999.x": torch.zeros(1)}, {})
    with pytest.raises(InputError, match="depth = 1000000000; it must be at most 1,000"):
        checkpoint.load_model(tmp_path / "x.safetensors", model="DyDiT-S/2")


@pytest.mark.parametrize("step", [-1, 2.5, True, 10**12, "3"])
def test_a_training_cannot_go_on_from_a_step_that_there_is_not(step: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(pytorch({"schema_version": 1, "identity": {"recipe": {}}, "training": {"step": step}}))
    with pytest.raises(InputError, match="step is"):
        read_whole(path)


@pytest.mark.parametrize("case", CASES)
def test_a_damaged_file_ends_in_one_line(case: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    make, name, read = CASES[case]
    whole = make()

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
    @given(steps=mutations)
    def check(steps: list[Mutation]) -> None:
        path = tmp_path_factory.mktemp("damaged") / name
        path.write_bytes(mutated(whole, steps))
        try:
            read(path)
        except InputError as error:
            assert len(str(error).splitlines()) == 1

    check()


@pytest.mark.parametrize("case", [each for each in CASES if corpus_file(each).exists()])
def test_what_fuzzing_reached_ends_in_success_or_in_one_line(case: str, tmp_path: Path) -> None:
    _, name, read = CASES[case]
    for number, content in enumerate(corpus(case)):
        path = tmp_path / str(number) / name
        path.parent.mkdir()
        path.write_bytes(content)
        try:
            read(path)
        except InputError as error:
            assert len(str(error).splitlines()) == 1
