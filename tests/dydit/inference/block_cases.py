"""Cases for the Triton kernels; test_blocks.py runs this file, interpreted on the CPU and compiled on a GPU."""

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

from dydit.ablations.networks import LayerRouter
from dydit.config import DiTConfig
from dydit.dit import DiT, DiTBlock, Mlp
from dydit.dydit import DyDiT
from dydit.inference import products as products_module
from dydit.inference.cuda_graphs import GraphedForward
from dydit.inference.engine import Engine
from dydit.inference.products import LIBRARY, Products, Shapes, Tile, arithmetic_of
from dydit.inference.spans import watch_spans
from dydit.inference.torch_blocks import Modulation, TorchBlocks
from dydit.inference.triton_blocks import TritonBlocks
from dydit.inference.weight_slices import MlpWeights
from dydit.inference.width_plan import WidthPlan
from dydit.routing import TokenRouter

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
Case = tuple[Tensor, Tensor, MlpWeights, Modulation]


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
    weights = MlpWeights.take(mlp.to(DEVICE, dtype), tuple(range(open_groups)), HEADS)
    six = torch.randn(n, 6 * width, generator=generator).to(DEVICE, dtype)[:, None].chunk(6, dim=-1)
    hidden = torch.randn(n, TOKENS, width, generator=generator).to(DEVICE, dtype)
    return hidden, MASKS[mask](n).to(DEVICE), weights, Modulation(*six[3:])


def expected(problem: Case) -> Tensor:
    """What torch makes of the same numbers in float64."""
    hidden, selected, weights, modulation = problem
    exact = hidden.double()
    double = MlpWeights(*(t.double() for t in (weights.fc1, weights.fc1_bias, weights.fc2, weights.fc2_bias)))
    TorchBlocks().update_selected(exact, selected, double, Modulation(*(m.double() for m in modulation)))
    return exact


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def agree(out: Tensor, problem: Case) -> None:
    """Float32 to 1e-5, bfloat16 to a few of its roundings; tokens that were not selected bit by bit.

    The engine's own bfloat16 error is 2e-3 to 3e-3 here. The interpreter truncates where the device rounds to nearest.
    """
    hidden, selected, _, _ = problem
    wanted = expected(problem)
    assert torch.equal(out[~selected], hidden[~selected])
    if out.dtype == torch.float32:
        assert (out - wanted).abs().max() < 1e-5
    else:
        assert (out - wanted).norm() < (8e-3 if INTERPRETED else 4e-3) * wanted.norm()


def updated(problem: Case, products: Products | None = None) -> Tensor:
    """Tokens after the update by these products, by default those of the shapes."""
    hidden, selected, weights, modulation = problem
    out, blocks = hidden.clone(), TritonBlocks(hidden.device)
    selection = blocks.select_tokens(out, torch.nn.Identity(), selected)
    assert selection.count.tolist() == [int(selected.sum())]
    if products is None:
        blocks.update_selected(out, selection, weights, modulation)
    else:
        blocks.update_with(out, selection, weights, modulation, products)
    return out


@pytest.mark.parametrize("products", [SMALL, LIBRARY], ids=["triton", "library"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("n", "width"), [(1, 32), (3, 48)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_selected_tokens_are_updated(dtype: torch.dtype, n: int, width: int, mask: str, products: Products) -> None:
    problem = case(mask, n, width, dtype)
    agree(updated(problem, products), problem)


@pytest.mark.parametrize("open_groups", [1, 4])
def test_default_tiles_larger_than_the_problem(open_groups: int) -> None:
    problem = case("mixed", 3, 48, torch.bfloat16, open_groups)
    agree(updated(problem), problem)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_token_is_normalised_and_gated_as_torch_does(dtype: torch.dtype) -> None:
    hidden, _, _, modulation = case("all", 3, 48, dtype)
    update = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE, dtype)
    ours, torchs = TritonBlocks(hidden.device), TorchBlocks()
    bound = 1e-6 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(
        ours.modulated(hidden, modulation), torchs.modulated(hidden, modulation), rtol=bound, atol=bound
    )
    one, other = hidden.clone(), hidden.clone()
    ours.add_gated(one, update, modulation.gate)
    torchs.add_gated(other, update, modulation.gate)
    torch.testing.assert_close(one, other, rtol=bound, atol=bound)


@pytest.mark.parametrize("override", [False, True], ids=["routed", "override"])
@pytest.mark.parametrize("router", [TokenRouter, LayerRouter])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_selects_the_routers_tokens(dtype: torch.dtype, router: type[TokenRouter], override: bool) -> None:
    """Rows for three programs, the last not full; a mask in the router's place is strided, as one of many layers'."""
    torch.manual_seed(0)
    hidden, module = torch.randn(5, 31, 48, device=DEVICE).to(dtype), router(48, 12).eval().to(DEVICE, dtype)
    layers = torch.rand(5, 2, 31, device=DEVICE) < 0.4
    layers = layers if dtype == torch.float32 else layers.transpose(0, 2).contiguous().transpose(0, 2)
    wanted = layers[:, 1] if override else module(hidden).bool()
    selection = TritonBlocks(hidden.device).select_tokens(hidden, module, layers[:, 1] if override else None)
    found = torch.zeros(5 * 31, dtype=torch.bool, device=DEVICE)
    found[selection.index[: selection.count.item()].long()] = True
    assert found.sum() == selection.count
    differ = found != wanted.flatten()
    if dtype == torch.bfloat16 and not override:  # rounding tips a router that is undecided; the interpreter truncates
        exact = copy.deepcopy(module).double().mlp_head(hidden.double()).flatten()
        differ &= exact.abs() > 0.02
    assert not differ.any()
    assert 0 < found.sum() < 5 * 31 or (router is LayerRouter and not override)


@pytest.mark.parametrize("router", [TokenRouter, LayerRouter])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.filterwarnings("ignore:invalid value")  # the interpreter adds infinities by NumPy
def test_a_token_becomes_nan_where_its_gate_is(dtype: torch.dtype, router: type[TokenRouter]) -> None:
    torch.manual_seed(0)
    hidden, module = torch.randn(5, 31, 48, device=DEVICE).to(dtype), router(48, 12).eval().to(DEVICE, dtype)
    # Two hidden channels cancel each other, and for this token both overflow.
    hidden[2, 7, 0] = 1e5
    module.mlp_head[0].weight[:2] = torch.tensor([1e36, *[0.0] * 47])
    module.mlp_head[2].weight[0, :2] = torch.tensor([1.0, -1.0])
    wanted = module(hidden).isnan()
    assert wanted[2, 7] and not wanted[[0, 1, 3, 4]].any()
    TritonBlocks(hidden.device).select_tokens(hidden, module, None)
    assert torch.equal(hidden.isnan().any(-1), wanted)


@pytest.mark.parametrize("kind", [DiT, DyDiT])
def test_an_engine_of_fused_kernels_computes_the_same_function(
    build: Callable[..., Any], draw: Callable[..., Any], kind: type[DiT]
) -> None:
    model = copy.deepcopy(build(kind)).to(DEVICE)
    x, t, y = (v.to(DEVICE) for v in draw(model, n=3))
    t[:] = 500
    plan, blocks = WidthPlan.from_routers(model, [500]) if isinstance(model, DyDiT) else None, TritonBlocks(x.device)
    torch.testing.assert_close(Engine(model, plan, backend=blocks)(x, t, y), model(x, t, y), rtol=1e-4, atol=1e-4)


def test_an_engine_tunes_for_every_shape_of_its_forward(
    build: Callable[..., Any], draw: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dydit.inference import triton_kernels

    model = copy.deepcopy(build()).to(DEVICE)
    x, t, y = (v.to(DEVICE) for v in draw(model, n=2))
    t[:] = 500
    widths = torch.arange(4) < torch.tensor([[2], [3]])
    tuned = Engine(model, WidthPlan(dict.fromkeys((500, 501), (widths, widths))), backend=TritonBlocks(x.device))
    slow = tuple(Tile(16, 16, 16, group=1, warps=4, stages=1) for _ in range(2))
    durations = iter([2.0, 1.0, None, 1.0, 2.0, None])

    def measure(run: Callable[[], object]) -> float:
        run()
        if (duration := next(durations)) is None:
            raise triton_kernels.OutOfResources(2**20, 2**10, "shared memory")
        return duration

    monkeypatch.setattr(products_module, "_tuned", {})
    monkeypatch.setitem(products_module.TILES, "float32", (slow, SMALL, (SMALL[0], slow[1])))
    monkeypatch.setattr(triton_kernels, "median_ms", measure)
    wanted = tuned(x, t, y)
    assert not products_module._tuned
    tuned.tune(2)
    chosen = {Shapes("float32", 32, 48 * 2, 48): SMALL, Shapes("float32", 32, 48 * 3, 48): slow}
    assert products_module._tuned == chosen
    seen: list[str] = []
    with watch_spans(lambda name: contextlib.nullcontext(seen.append(name))):
        torch.testing.assert_close(tuned(x, t, y), wanted, rtol=1e-5, atol=1e-5)
    block = ["modulation", "norm", "qkv", "attention", "proj", "token routing", "norm", "MLP"]
    assert seen == ["embedding", *block, *block, "final layer"]


Refusal = Callable[..., AbstractContextManager[None]]


def test_refused_tensors(refusal: Refusal) -> None:
    hidden, selected, weights, modulation = case("mixed", 1, 32, torch.float32)
    with refusal("torch.float16", "torch.bfloat16"):
        updated((hidden.half(), selected, weights, modulation))
    with refusal("tokens and weights", ".contiguous()"):
        updated((hidden.transpose(1, 2), torch.ones(1, 32, dtype=torch.bool), weights, modulation))
    with refusal("modulation", ".contiguous()"):
        strided = Modulation(*(torch.cat([m, m], dim=-1)[..., ::2] for m in modulation))
        updated((hidden, selected, weights, strided))


@needs_gpu
@pytest.mark.parametrize("kind", [DiT, DyDiT])
def test_the_host_waits_for_nothing(build: Callable[..., Any], draw: Callable[..., Any], kind: type[DiT]) -> None:
    model = copy.deepcopy(build(kind)).to("cuda", torch.bfloat16)
    x, _, y = (v.cuda() for v in draw(model, n=3))
    engine = Engine(model, WidthPlan.from_routers(model, [500]) if isinstance(model, DyDiT) else None)
    engine(x.bfloat16(), 500, y)  # compiles, slices
    torch.cuda.set_sync_debug_mode("error")
    try:
        engine(x.bfloat16(), 500, y)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_candidate_at_full_width(dtype: torch.dtype) -> None:
    config = DiTConfig(input_size=32, patch_size=2, in_channels=4, hidden_size=1152, depth=1, num_heads=16)
    torch.manual_seed(0)
    block = DiTBlock(config).to("cuda", dtype)
    hidden = torch.randn(16, config.tokens, 1152, device="cuda").to(dtype)
    modulation = Modulation(*torch.randn(16, 1, 6 * 1152, device="cuda").to(dtype).chunk(6, dim=-1)[3:])
    selected = torch.rand(16, config.tokens, device="cuda") < 0.6
    problem = (hidden, selected, MlpWeights.take(block.mlp, tuple(range(9)), 16), modulation)
    for products in products_module.candidates(arithmetic_of(dtype, hidden.device), hidden.device):
        out = updated(problem, products)
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
        torch.testing.assert_close(graphed(x, 150 * (seed % 3), y), wanted, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(graphed(x, t, y), wanted, rtol=1e-4, atol=1e-4)
    x, t, y = (v.cuda() for v in draw(model, n=3, seed=9))
    torch.testing.assert_close(graphed(x, t, y), model(x, t, y), rtol=1e-4, atol=1e-4)


BUILD = """
import sys
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from dydit.inference import triton_kernels
from dydit.inference.products import TILES

INTEGERS = set("rows tokens channels mask_stride gate_stride columns depth width shift_stride scale_stride".split())
POINTERS = {"count": "*i32", "index": "*i32", "mask": "*u8"}


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


for arithmetic, values in (("bfloat16", "*bf16"), ("tf32", "*fp32"), ("float32", "*fp32")):
    for masked in (True, False):
        flags = {"ROWS": 64, "WIDTH": 128, "ROUTED": True, "MASKED": masked}
        build(triton_kernels.select_tokens, flags, values, 4, 3)
    for selected in (True, False):
        build(triton_kernels.modulate, {"BLOCK": 2048, "SELECTED": selected}, values, 4, 3)
        build(triton_kernels.add_gated, {"BLOCK": 2048, "SELECTED": selected, "BIASED": selected}, values, 4, 3)
    build(triton_kernels.bias_gelu, {"ROWS": 16, "COLUMNS": 128}, values, 4, 3)
    for tiles in TILES[arithmetic]:
        for scatter, tile in zip((False, True), tiles):
            constants = {"ROWS": tile.rows, "COLUMNS": tile.columns, "DEPTH": tile.depth, "GROUP": tile.group}
            constants |= {"SCATTER": scatter, "WHOLE": True, "WIDEN": False}
            constants |= {"PRECISION": "tf32" if arithmetic == "tf32" else "ieee"}
            if not scatter:
                constants |= dict.fromkeys(("index", "gate", "tokens", "gate_stride"))
            ptx = build(triton_kernels.linear, constants, values, tile.warps, tile.stages)
            assert ("wgmma.mma_async" in ptx) == (arithmetic != "float32"), (scatter, tile)
            assert (".tf32" in ptx) == (arithmetic == "tf32"), (scatter, tile)
"""


@pytest.mark.skipif(not INTERPRETED, reason="the other cases compile the kernels for this GPU")
def test_the_compiler_takes_what_the_interpreter_takes(tmp_path: Any) -> None:
    """All kernels build for compute capability 9.0 without a GPU, on its tensor cores, within its shared memory."""
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    source = tmp_path / "build.py"
    source.write_text(BUILD)
    done = subprocess.run([sys.executable, source], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
