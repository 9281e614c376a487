"""Cases for the Triton kernels; test_kernels.py runs this file, interpreted on the CPU and compiled on a GPU."""

from __future__ import annotations

import contextlib
import copy
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor

from dydit import engine, kernels
from dydit.config import DiTConfig
from dydit.dit import DiTBlock, Mlp
from dydit.engine import Engine
from dydit.graphs import GraphedForward
from dydit.kernels import Tile
from dydit.slices import MlpWeights, WidthPlan

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
needs_gpu = pytest.mark.skipif(INTERPRETED, reason="a stream, a graph and the compiler exist on a GPU only")

TOKENS = 16
HEADS = 4
SMALL = (Tile(16, 32, 16, group=2, warps=4, stages=2), Tile(16, 16, 32, group=2, warps=4, stages=2))
"""Several row and column tiles, groups that the rows do not fill, and depths that divide no width of 48."""

MASKS: dict[str, Callable[[int], Tensor]] = {
    "none": lambda n: torch.zeros(n, TOKENS, dtype=torch.bool),
    "all": lambda n: torch.ones(n, TOKENS, dtype=torch.bool),
    "one": lambda n: torch.arange(n * TOKENS).view(n, TOKENS) == n * TOKENS - 2,
    "mixed": lambda n: torch.arange(n * TOKENS).view(n, TOKENS) % 5 < 3,
    "an empty image": lambda n: (torch.arange(n * TOKENS).view(n, TOKENS) % 3 > 0) & (torch.arange(n) != 1)[:, None],
}
Case = tuple[Tensor, Tensor, MlpWeights, tuple[Tensor, ...]]


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Fresh memory holds NaN and huge indices, so that reading it before writing shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def case(mask: str, n: int, width: int, dtype: torch.dtype, open_groups: int = 3) -> Case:
    """Random tokens, a mask and the sliced weights of an MLP; the modulation is a strided view, as in the engine."""
    generator = torch.Generator().manual_seed(n * width)
    mlp = Mlp(width, 4 * width)
    with torch.no_grad():
        for parameter in mlp.parameters():
            parameter.normal_(std=parameter.shape[-1] ** -0.5, generator=generator)
    weights = MlpWeights.take(mlp.to(DEVICE, dtype), torch.arange(HEADS) < open_groups)
    six = torch.randn(n, 6 * width, generator=generator).to(DEVICE, dtype)[:, None].chunk(6, dim=-1)
    hidden = torch.randn(n, TOKENS, width, generator=generator).to(DEVICE, dtype)
    return hidden, MASKS[mask](n).to(DEVICE), weights, six[3:]


def expected(problem: Case) -> Tensor:
    """What engine.update_selected makes of the same numbers in float64."""
    hidden, chosen, weights, modulation = problem
    exact = hidden.double()
    double = MlpWeights(*(t.double() for t in (weights.fc1, weights.fc1_bias, weights.fc2, weights.fc2_bias)))
    engine.update_selected(exact, chosen, double, tuple(m.double() for m in modulation))
    return exact


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def agree(out: Tensor, problem: Case) -> None:
    """Float32 to 1e-5, bfloat16 to a few of its roundings; tokens that were not chosen bit by bit.

    The engine's own bfloat16 error is 2e-3 to 3e-3 here. The interpreter truncates where the device rounds to nearest.
    """
    hidden, chosen, _, _ = problem
    wanted = expected(problem)
    assert torch.equal(out[~chosen], hidden[~chosen])
    if out.dtype == torch.float32:
        assert (out - wanted).abs().max() < 1e-5
    else:
        assert (out - wanted).norm() < (8e-3 if INTERPRETED else 4e-3) * wanted.norm()


@pytest.mark.parametrize("capacity", [0, 24, 10**6], ids=["triton", "overflow", "library"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("n", "width"), [(1, 32), (3, 48)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_equals_the_engine(dtype: torch.dtype, n: int, width: int, mask: str, capacity: int) -> None:
    problem = case(mask, n, width, dtype)
    hidden, chosen, weights, modulation = problem
    out = hidden.clone()
    count = kernels.update_selected(out, chosen, weights, modulation, capacity, SMALL)
    assert count.tolist() == [int(chosen.sum())]
    agree(out, problem)


@pytest.mark.parametrize("open_groups", [1, 4])
def test_default_tiles_larger_than_the_problem(open_groups: int) -> None:
    problem = case("mixed", 3, 48, torch.bfloat16, open_groups)
    hidden, chosen, weights, modulation = problem
    out = hidden.clone()
    kernels.update_selected(out, chosen, weights, modulation)
    agree(out, problem)


def test_a_strided_mask() -> None:
    problem = case("mixed", 3, 32, torch.float32)
    hidden, chosen, weights, modulation = problem
    out = hidden.clone()
    layers = torch.stack([~chosen, chosen], dim=1)
    kernels.update_selected(out, layers[:, 1], weights, modulation, tiles=SMALL)
    agree(out, problem)


def test_compaction_over_several_tiles() -> None:
    from dydit import triton_kernels

    mask = torch.arange(37, device=DEVICE) % 7 < 3
    index = torch.full((37,), -1, dtype=torch.int32, device=DEVICE)
    count = torch.empty(1, dtype=torch.int32, device=DEVICE)
    triton_kernels.compact[(1,)](mask.view(torch.uint8), index, count, 37, TILE=16)
    selected = mask.nonzero().flatten()
    assert count.item() == len(selected)
    assert index[: len(selected)].tolist() == selected.tolist()
    assert (index[len(selected) :] == -1).all()


def test_tuning_keeps_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = case("mixed", 1, 32, torch.float32)
    slow = tuple(Tile(16, 16, 16, group=1, warps=4, stages=1) for _ in range(2))
    monkeypatch.setitem(kernels.TILES, torch.float32, (slow, SMALL))
    monkeypatch.setattr(kernels, "_tuned", {})
    before = problem[0].clone()
    durations = iter([2.0, 1.0])

    def measure(run: Callable[[], object]) -> float:
        run()
        return next(durations)

    assert kernels.tune(*problem, measure=measure) == {slow: 2.0, SMALL: 1.0}
    assert torch.equal(problem[0], before)
    assert list(kernels._tuned.values()) == [SMALL]
    out = before.clone()
    kernels.update_selected(out, *problem[1:])
    agree(out, problem)


def test_an_engine_tunes_for_every_shape_of_its_forward(
    build: Callable[..., Any], draw: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dydit import triton_kernels

    model = copy.deepcopy(build()).to(DEVICE)
    x, t, y = (v.to(DEVICE) for v in draw(model, n=2))
    t[:] = 500
    widths = torch.arange(4) < torch.tensor([[2], [3]])
    tuned = Engine(model, WidthPlan({500: (widths, widths)}), kernels="triton")
    monkeypatch.setattr(kernels, "_tuned", {})
    monkeypatch.setitem(kernels.TILES, torch.float32, (SMALL,))
    monkeypatch.setattr(triton_kernels, "median_ms", lambda run: run() or 1.0)
    wanted = tuned(x, t, y)
    assert not kernels._tuned
    tuned.tune(x, t, y)
    assert kernels._tuned == {(torch.float32, 32, 48 * groups, 48): SMALL for groups in (2, 3)}
    seen: list[str] = []
    with engine.watched(lambda name: contextlib.nullcontext(seen.append(name))):
        assert torch.equal(tuned(x, t, y), wanted)
    own = ["token routing", "gather", "norm", "MLP"]
    block = ["modulation", "norm", "qkv", "attention", "proj", *own]
    assert seen == ["embedding", *block, *block, "final layer"]


Refusal = Callable[..., AbstractContextManager[None]]


def test_refused_tensors(refusal: Refusal) -> None:
    hidden, chosen, weights, modulation = case("mixed", 1, 32, torch.float32)
    with refusal("torch.float16", "torch.bfloat16"):
        kernels.update_selected(hidden.half(), chosen, weights, modulation)
    with refusal("tokens and weights", ".contiguous()"):
        kernels.update_selected(hidden.transpose(1, 2), chosen, weights, modulation)
    with refusal("modulation", ".contiguous()"):
        strided = tuple(torch.cat([m, m], dim=-1)[..., ::2] for m in modulation)
        kernels.update_selected(hidden, chosen, weights, strided)


@needs_gpu
@pytest.mark.parametrize("capacity", [0, 24])
def test_the_host_waits_for_nothing(capacity: int) -> None:
    problem = case("mixed", 3, 48, torch.bfloat16)
    kernels.update_selected(problem[0], *problem[1:], capacity)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        kernels.update_selected(problem[0], *problem[1:], capacity)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("tiles", range(3))
def test_every_candidate_at_full_width(dtype: torch.dtype, tiles: int) -> None:
    config = DiTConfig(input_size=32, patch_size=2, in_channels=4, hidden_size=1152, depth=1, num_heads=16)
    torch.manual_seed(0)
    block = DiTBlock(config).to("cuda", dtype)
    hidden = torch.randn(16, config.tokens, 1152, device="cuda").to(dtype)
    modulation = torch.randn(16, 1, 6 * 1152, device="cuda").to(dtype).chunk(6, dim=-1)[3:]
    chosen = torch.rand(16, config.tokens, device="cuda") < 0.6
    problem = (hidden, chosen, MlpWeights.take(block.mlp, torch.arange(16) < 9), modulation)
    out = hidden.clone()
    with torch.no_grad():
        kernels.update_selected(out, *problem[1:], tiles=kernels.TILES[dtype][tiles])
        if dtype == torch.float32:
            wanted = expected(problem)
            assert (out - wanted).norm() < 1e-6 * wanted.norm()
        else:
            agree(out, problem)


@needs_gpu
def test_graphs_replay_the_masked_forward(build: Callable[..., Any], draw: Callable[..., Any]) -> None:
    torch.use_deterministic_algorithms(False)  # filling memory inside a capture is not what is tested
    model = copy.deepcopy(build()).to("cuda")
    graphed = GraphedForward(Engine(model, WidthPlan.from_routers(model, range(1000))), limit=2)
    for seed in range(6):
        x, t, y = (v.cuda() for v in draw(model, n=2, seed=seed))
        t[:] = 150 * (seed % 3)
        wanted = model(x, t, y)
        torch.testing.assert_close(graphed(x, t.cpu(), y), wanted, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(graphed(x, t, y), wanted, rtol=1e-4, atol=1e-4)
    x, t, y = (v.cuda() for v in draw(model, n=3, seed=9))
    torch.testing.assert_close(graphed(x, t, y), model(x, t, y), rtol=1e-4, atol=1e-4)


BUILD = """
import sys
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from dydit import kernels, triton_kernels

INTEGERS = set("rows first tokens gate_stride columns depth capacity width shift_stride scale_stride".split())
POINTERS = {"count": "*i32", "index": "*i32", "chosen": "*u8"}


def build(kernel, constants, values, warps, stages):
    names = kernel.arg_names
    signature = {
        n: "constexpr" if n in constants else "i32" if n in INTEGERS else POINTERS.get(n, values) for n in names
    }
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if n not in constants}
    built = triton.compile(
        ASTSource(kernel, signature, constants, aligned),
        target=GPUTarget("cuda", 90, 32),
        options={"num_warps": warps, "num_stages": stages},
    )
    assert built.metadata.shared <= 227 * 1024, (kernel, constants)
    return built.asm["ptx"]


build(triton_kernels.compact, {"TILE": 4096}, None, 8, 3)
for dtype, values in ((torch.bfloat16, "*bf16"), (torch.float32, "*fp32")):
    build(triton_kernels.gather_modulate, {"BLOCK": 2048}, values, 4, 3)
    build(triton_kernels.scatter, {"ROWS": 16, "COLUMNS": 128}, values, 4, 3)
    for tiles in kernels.TILES[dtype]:
        for kernel, tile in zip((triton_kernels.linear_gelu, triton_kernels.linear_scatter), tiles):
            constants = {"ROWS": tile.rows, "COLUMNS": tile.columns, "DEPTH": tile.depth, "GROUP": tile.group}
            ptx = build(kernel, constants | {"WHOLE": True, "WIDEN": False}, values, tile.warps, tile.stages)
            assert ("wgmma.mma_async" in ptx) == (dtype == torch.bfloat16), (kernel, tile)
"""


@pytest.mark.skipif(not INTERPRETED, reason="the other cases compile the kernels for this GPU")
def test_the_compiler_takes_what_the_interpreter_takes(tmp_path: Any) -> None:
    """All kernels build for compute capability 9.0 without a GPU, on its tensor cores, within its shared memory."""
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    source = tmp_path / "build.py"
    source.write_text(BUILD)
    done = subprocess.run([sys.executable, source], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
