"""The engine computes the masked forward's function for any masks, batch and dtype, and bounds its copies."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench.flops.counts import executed_macs
from dydit import DiT, DyDiT, InputError, Routing
from dydit.diffusion import Diffusion
from dydit.flops import MATMUL, macs
from dydit.inference import cpu_kernels
from dydit.inference.engine import Engine
from dydit.inference.torch_blocks import TorchBlocks
from dydit.inference.width_plan import WidthPlan
from dydit.sampling import generate

CONFIG = dict(input_size=8, patch_size=2, in_channels=4, hidden_size=48, depth=3, num_heads=4, num_classes=10)
DEPTH, HEADS, TOKENS = 3, 4, 16


def randomised(kind: type[DiT], seed: int = 0, **changes: int) -> DiT:
    torch.manual_seed(seed)
    model = kind(**{**CONFIG, **changes}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


def inputs(batch: int, timestep: int = 417) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    x = torch.randn(batch, 4, 8, 8, generator=generator)
    return x, torch.full((batch,), timestep), torch.randint(11, (batch,), generator=generator)


def routing(batch: int, kind: str) -> Routing:
    generator = torch.Generator().manual_seed(3)

    def some(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) < 0.5

    heads, channels, tokens = some(1, DEPTH, HEADS), some(1, DEPTH, HEADS), some(batch, DEPTH, TOKENS)
    if kind == "all open":
        heads, channels, tokens = heads | True, channels | True, tokens | True
    elif kind == "one head only":
        heads, channels = heads & False, channels & False
    elif kind == "no token":
        tokens = tokens & False
    elif kind == "all tokens":
        tokens = tokens | True
    elif kind == "an image without tokens":
        tokens[0] = False
    heads[..., 0] = channels[..., 0] = True
    return Routing(heads.expand(batch, -1, -1), channels.expand(batch, -1, -1), tokens)


KINDS = ("all open", "one head only", "no token", "all tokens", "an image without tokens", "mixed")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.bfloat16, 4e-2)])
@torch.no_grad()
def test_equals_the_masked_forward_for_any_masks(kind: str, batch: int, dtype: torch.dtype, bound: float) -> None:
    model = randomised(DyDiT).to(dtype)
    assert isinstance(model, DyDiT)
    masks = routing(batch, kind)
    x, t, y = inputs(batch)
    expected, _ = model.route(x.to(dtype), t, y, masks)
    actual = Engine(model, WidthPlan.constant(masks, [417]), masks.tokens)(x.to(dtype), t, y)
    assert (actual - expected).abs().max() < bound * expected.abs().max()


@pytest.fixture(params=["oneDNN", "torch"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels of the CPU: oneDNN's where torch has them, and torch's own, whichever are faster here."""
    served = {torch.float32} if request.param == "oneDNN" and torch.backends.mkldnn.is_available() else set()
    monkeypatch.setattr(cpu_kernels, "_SERVED", frozenset(served))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("seed", range(4))
@torch.no_grad()
def test_equals_the_masked_forward_with_its_own_routers(seed: int) -> None:
    model = randomised(DyDiT, seed)
    assert isinstance(model, DyDiT)
    x, t, y = inputs(5)
    expected, used = model.route(x, t, y)
    assert 0 < used.tokens.mean() < 1  # random routers: something is skipped and something is not
    actual = Engine(model, WidthPlan.from_routers(model, [417]))(x, t, y)
    assert (actual - expected).abs().max() < 1e-4 * expected.abs().max()


@torch.no_grad()
def test_a_batch_that_mixes_timesteps_is_correct() -> None:
    model = randomised(DyDiT)
    assert isinstance(model, DyDiT)
    x, _, y = inputs(4)
    t = torch.tensor([5, 900, 5, 333])
    actual = Engine(model, WidthPlan.from_routers(model, t.tolist()))(x, t, y)
    torch.testing.assert_close(actual, model(x, t, y), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("kernels")
@torch.no_grad()
def test_kept_memory_carries_nothing_into_the_next_forward() -> None:
    model = randomised(DyDiT)
    assert isinstance(model, DyDiT)
    plan = WidthPlan.from_routers(model, [417, 980])
    kept = Engine(model, plan)
    for batch, timestep in [(5, 417), (1, 980), (5, 980), (2, 417)]:
        batch_inputs = inputs(batch, timestep)
        assert torch.equal(kept(*batch_inputs), Engine(model, plan)(*batch_inputs))


@torch.no_grad()
def test_the_static_engine_equals_the_static_model() -> None:
    model = randomised(DiT)
    x, t, y = inputs(3)
    torch.testing.assert_close(Engine(model)(x, t, y), model(x, t, y), rtol=1e-4, atol=1e-4)


def test_a_guided_sampling_run_gives_the_same_images() -> None:
    model = randomised(DyDiT)
    assert isinstance(model, DyDiT)
    with torch.no_grad():
        for parameter in model.final_layer.parameters():
            parameter.mul_(0.05)  # keep the states of a random network near 1
    diffusion = Diffusion.linear().respaced(6)
    engine = Engine(model, WidthPlan.from_routers(model, diffusion.timestep_map.tolist()))
    plain, realised = (
        generate(network, diffusion, (4, 8, 8), 10, range(3), seed=1, scale=1.5)[0] for network in (model, engine)
    )
    torch.testing.assert_close(realised, plain, rtol=1e-3, atol=1e-3 * plain.abs().max().item())


@pytest.mark.parametrize("kind", KINDS)
def test_executed_macs_equal_claimed_macs(kind: str) -> None:
    batch = 2
    model = randomised(DyDiT)
    assert isinstance(model, DyDiT)
    masks = routing(batch, kind)
    engine = Engine(model, WidthPlan.constant(masks, [417]), masks.tokens)
    executed = executed_macs(engine, inputs(batch)) / batch
    claimed = macs(model.config, masks)
    # The two width routers run when the plan is made, not in the forward.
    planned = model.config.depth * 2 * model.config.hidden_size * (HEADS - 1)
    assert executed == pytest.approx(claimed.total(MATMUL) - planned, rel=0.005)


def test_copied_weights_stay_under_the_bound_and_are_reused() -> None:
    model = randomised(DyDiT)
    assert isinstance(model, DyDiT)
    own = sum(p.numel() * p.element_size() for p in model.parameters())
    generator = torch.Generator().manual_seed(0)
    widths = {}
    for t in range(40):
        heads, channels = (torch.rand(DEPTH, HEADS, generator=generator) < 0.5 for _ in range(2))
        heads[:, 0] = channels[:, 0] = True
        widths[t] = (heads, channels)
    engine = Engine(model, WidthPlan(widths), memory_share=0.1)
    for t in range(40):
        engine(*inputs(1, t))
        assert engine.cache.bytes <= 0.1 * own
    roomy = Engine(model, WidthPlan(widths))
    assert roomy.cache.limit <= 0.5 * own
    for _ in range(2):
        roomy(*inputs(1, 7))
    misses = roomy.cache.misses
    roomy(*inputs(1, 7))
    assert roomy.cache.misses == misses <= 2 * DEPTH


@pytest.mark.parametrize("packs", [True, False])
def test_weights_are_packed_once_and_only_where_that_is_asked_for(packs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = list[tuple[int, ...]]()
    monkeypatch.setattr(cpu_kernels, "serves", lambda x: x.dtype == torch.float32)
    monkeypatch.setattr(cpu_kernels, "packed", lambda weight: packed.append(tuple(weight.shape)) or weight)
    engine = Engine(randomised(DiT), backend=TorchBlocks(packs))
    for t in (3, 4):
        engine(*inputs(2, t))
    assert len(packed) == (5 * DEPTH if packs else 0)  # qkv, proj, fc1, fc2 and the modulations


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda model, plan: Engine(model), "needs a width plan"),
        (lambda model, plan: Engine(randomised(DiT), plan), "takes no width plan"),
        (lambda model, plan: Engine(model.train(), plan), "training mode"),
        (lambda model, plan: Engine(randomised(DyDiT, depth=2), plan), "made for"),
        (lambda model, plan: Engine(model, plan)(*inputs(1, 3)), "the run is at 3"),
        (lambda model, plan: Engine(model, plan, routing(2, "mixed").tokens)(*inputs(1)), "token masks of shape"),
        (lambda model, plan: WidthPlan({}), "no timestep"),
        (lambda model, plan: WidthPlan({1: (torch.ones(2, 4), torch.ones(3, 4))}), "shapes"),
        (lambda model, plan: WidthPlan({1: (torch.zeros(2, 4), torch.ones(2, 4))}), "always on"),
    ],
)
def test_bad_input_is_one_clear_line(build: object, message: str) -> None:
    model = randomised(DyDiT)
    assert isinstance(model, DyDiT) and callable(build)
    plan = WidthPlan.from_routers(model, [417])
    with pytest.raises(InputError, match=message) as caught:
        build(model, plan)
    assert "\n" not in str(caught.value)


def test_a_token_gate_that_is_nan_shows_in_the_image_that_it_belongs_to() -> None:
    """A router that overflows, and nothing else: its hidden channels are infinite and its weights differ in sign."""
    model = randomised(DyDiT)
    assert isinstance(model, DyDiT)
    x, t, y = inputs(3)
    x[1] *= 1e25  # blocks pass on what norms make of it, but for the residual
    with torch.no_grad():
        model.blocks[1].token_selection.mlp_head[0].weight.mul_(1e20)
        outputs = [model(x, t, y), Engine(model, WidthPlan.from_routers(model, [417]))(x, t, y)]
    for output in outputs:
        assert output.isnan().flatten(1).any(1).tolist() == [False, True, False]


def test_a_width_router_that_returns_nan_is_refused_before_a_run() -> None:
    model = randomised(DyDiT)
    assert isinstance(model, DyDiT)
    with torch.no_grad():
        model.blocks[2].mlp_rate.router.weight[1, :2] = torch.tensor([torch.inf, -torch.inf])
    with pytest.raises(InputError, match=r"blocks\.2\.mlp_rate returns NaN at timestep"):
        WidthPlan.from_routers(model, range(0, 1000, 50))
