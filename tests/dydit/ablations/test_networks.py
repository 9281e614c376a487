from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dydit import DiT, DyDiT, Routing
from dydit.ablations.networks import (
    LayerSkip,
    LayerSkipOnly,
    RandomRouting,
    SdtOnly,
    SoftGated,
    SoftRouting,
    TdwOnly,
    TokenRouting,
    TokenSkipAttention,
)
from dydit.checkpoint import Checkpoint, load_into
from dydit.dit import modulate
from dydit.dydit import is_router_key, routers
from dydit.flops import flops_loss, flops_ratio
from dydit.inference.engine import Engine
from dydit.inference.width_plan import WidthPlan

H, T, C, DEPTH = 4, 16, 48, 2
SWAPPED = [TdwOnly, SdtOnly, LayerSkip]
ROUTED = [*SWAPPED, LayerSkipOnly, TokenSkipAttention, SoftGated]
KINDS = [*ROUTED, RandomRouting]
MASKS = ("heads", "channels", "tokens")
quick = settings(max_examples=15, deadline=None)


def routed(build, kind: type[DyDiT], seed: int = 0) -> Any:
    """A random model that opens some and closes some."""
    model = build(kind, seed=seed, class_dropout_prob=0.0)
    if isinstance(model, RandomRouting):
        model.set_rates((0.6, 0.4, 0.5), seed=seed)
    return model


def same_backbone(build, kind: type[DiT], model: DiT) -> Any:
    """A model of another kind with the weights of `model`, routers included where both have them."""
    other = build(kind, seed=1, class_dropout_prob=0.0)
    state = other.state_dict()
    other.load_state_dict({key: model.state_dict().get(key, value) for key, value in state.items()})
    return other


def modulation(block: Any, c: Tensor) -> list[Tensor]:
    return [part[:, None] for part in block.adaLN_modulation(c).chunk(6, dim=1)]


# Every variant starts as the complete DiT, is deterministic in evaluation, and trains.


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_filled_from_a_static_checkpoint_it_is_the_static_model(build, draw, kind: type[DyDiT], training: bool) -> None:
    static = build(DiT, seed=3, class_dropout_prob=0.0)
    model = kind(**static.config.kwargs())
    unfilled = load_into(model, Checkpoint(static.state_dict()))
    assert unfilled == [key for key in model.state_dict() if is_router_key(key)] != []
    x, t, y = draw(static)
    output, routing = model.train(training).route(x, t, y)
    assert torch.equal(output, static(x, t, y))
    assert flops_ratio(routing, model.config).tolist() == [1.0] * 3


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_complete_model_ignores_the_gates(build, draw, kind: type[DyDiT]) -> None:
    model = routed(build, kind)
    static = same_backbone(build, DiT, model)
    x, t, y = draw(model)
    assert torch.equal(model.complete(x, t, y), static(x, t, y))
    assert (model(x, t, y) - static(x, t, y)).abs().amax() > 1e-2


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_evaluation_is_deterministic_and_each_image_is_its_own(build, draw, kind: type[DyDiT]) -> None:
    model = routed(build, kind)
    x, t, y = draw(model, 4)
    state = torch.get_rng_state()
    output, routing = model.route(x, t, y)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    assert torch.equal(model(x, t, y), output)
    alone, own = model.route(x[2:3], t[2:3], y[2:3])
    torch.testing.assert_close(alone, output[2:3], rtol=1e-4, atol=1e-4)
    for name in MASKS:
        torch.testing.assert_close(getattr(own, name), getattr(routing, name)[2:3], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_given_its_own_masks_it_repeats_its_output(build, draw, kind: type[DyDiT], training: bool) -> None:
    model = routed(build, kind).train(training)
    x, t, y = draw(model)
    output, routing = model.route(x, t, y)
    again, used = model.route(x, t, y, routing)
    assert torch.equal(again, output)
    for name in MASKS:
        assert torch.equal(getattr(used, name), getattr(routing, name))


@pytest.mark.parametrize("kind", ROUTED)
def test_the_gradient_of_a_training_step_reaches_every_router(build, draw, kind: type[DyDiT]) -> None:
    model = copy.deepcopy(routed(build, kind, seed=1)).train()
    torch.manual_seed(0)
    output, routing = model.route(*draw(model, 8))
    if kind is not SoftGated:
        for name, parameter in model.named_parameters():
            if is_router_key(name):
                loss = flops_loss(routing, model.config, 0.1)
                (gradient,) = torch.autograd.grad(loss, parameter, retain_graph=True)
                assert gradient.abs().sum() > 0, name
    output.square().mean().backward()
    for name, parameter in model.named_parameters():
        if is_router_key(name):
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", [RandomRouting, SoftGated])
def test_what_does_not_learn_to_skip_gets_no_gradient_from_the_flops(build, draw, kind: type[DyDiT]) -> None:
    routing = routed(build, kind).train().route(*draw(build(kind)))[1]
    assert not flops_ratio(routing, build(kind).config).requires_grad


# What each variant computes.


@pytest.mark.parametrize("kind", [*SWAPPED, RandomRouting])
@pytest.mark.parametrize("seed", [0, 1])
@torch.no_grad()
def test_other_routers_are_dydit_under_their_masks(build, draw, kind: type[DyDiT], seed: int) -> None:
    model = routed(build, kind, seed)
    x, t, y = draw(model, 4, seed)
    output, routing = model.route(x, t, y)
    assert torch.equal(same_backbone(build, DyDiT, model).route(x, t, y, routing)[0], output)


@torch.no_grad()
def test_the_kept_routers_decide_as_in_dydit(build, draw) -> None:
    dydit = routed(build, DyDiT)
    x, t, y = draw(dydit, 6)
    both = dydit.route(x, t, y)[1]
    widths = same_backbone(build, TdwOnly, dydit).route(x, t, y)[1]
    assert torch.equal(widths.heads, both.heads) and torch.equal(widths.channels, both.channels)
    assert widths.tokens.all() and not both.tokens.all()
    tokens = same_backbone(build, SdtOnly, dydit).route(x, t, y)[1]
    assert tokens.heads.all() and tokens.channels.all() and not tokens.tokens.all()
    skips = same_backbone(build, TokenSkipAttention, dydit).route(x, t, y)[1]
    assert torch.equal(skips.heads, both.heads) and not skips.tokens.all()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", [LayerSkip, LayerSkipOnly])
@torch.no_grad()
def test_a_layer_is_open_for_all_tokens_of_an_image_or_for_none(build, draw, kind: type[DyDiT], training: bool) -> None:
    model = routed(build, kind).train(training)
    torch.manual_seed(0)
    routing = model.route(*draw(model, 32))[1]
    layers = [routing.tokens] if kind is LayerSkip else [routing.heads, routing.tokens]
    for mask in layers:
        assert torch.equal(mask, mask[..., :1].expand_as(mask))
        assert 0 < mask.mean() < 1


@torch.no_grad()
def test_a_layer_router_looks_at_the_mean_token(build, draw) -> None:
    model = routed(build, LayerSkip)
    tokens = model.embed(*draw(model))[0]
    router = model.blocks[0].token_selection
    expected = router.mlp_head(tokens.mean(1)) > 0
    assert torch.equal(router(tokens).bool(), expected.expand(-1, T))


@given(seed=st.integers(0, 10_000))
@quick
@torch.no_grad()
def test_dynamic_depth_runs_the_open_layers_alone(build, draw, seed: int) -> None:
    model = routed(build, LayerSkipOnly)
    x, t, y = draw(model, 3, seed)
    generator = torch.Generator().manual_seed(seed)
    is_open = torch.rand(2, 3, DEPTH, 1, generator=generator) < 0.5
    routing = Routing(is_open[0].expand(-1, -1, H), torch.ones(3, DEPTH, H), is_open[1].expand(-1, -1, T))
    output = model.route(x, t, y, routing)[0]
    for image in range(3):
        tokens, _, c = (part[image : image + 1] for part in model.embed(x, t, y))
        for index, block in enumerate(model.blocks):
            shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation(block, c)
            if is_open[0, image, index]:
                tokens = tokens + gate_a * block.attn(block.norm1(tokens) * (1 + scale_a) + shift_a)
            if is_open[1, image, index]:
                tokens = tokens + gate_m * block.mlp(block.norm2(tokens) * (1 + scale_m) + shift_m)
        expected = model.unpatchify(model.final_layer(tokens, c))
        torch.testing.assert_close(output[image : image + 1], expected, rtol=1e-4, atol=1e-4)


@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.0, 0.3, 0.8]))
@quick
@torch.no_grad()
def test_closed_tokens_ask_nothing_keep_their_value_and_stay_visible(build, draw, seed: int, share: float) -> None:
    model = routed(build, TokenSkipAttention)
    tokens, t_emb, c = model.embed(*draw(model, 1, seed))
    is_open = torch.rand(T, generator=torch.Generator().manual_seed(seed)) < share
    block: Any = model.blocks[0]
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation(block, c)
    out = block.masked(tokens, c, t_emb, (torch.ones(1, H), torch.ones(1, H), is_open[None]))[0]
    assert torch.equal(out[:, ~is_open], tokens[:, ~is_open])
    q_weight, k_weight, v_weight = block.attn.qkv.weight.chunk(3)
    q_bias, k_bias, v_bias = block.attn.qkv.bias.chunk(3)
    normed = block.norm1(tokens) * (1 + scale_a) + shift_a
    heads = [
        part.unflatten(-1, (H, -1)).transpose(1, 2)
        for part in (
            F.linear(normed[:, is_open], q_weight, q_bias),
            F.linear(normed, k_weight, k_bias),
            F.linear(normed, v_weight, v_bias),
        )
    ]
    seen = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    asked = tokens[:, is_open] + gate_a * block.attn.proj(seen)
    expected = asked + gate_m * block.mlp(block.norm2(asked) * (1 + scale_m) + shift_m)
    torch.testing.assert_close(out[:, is_open], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_token_router_of_whole_blocks_reads_their_input(build, draw) -> None:
    model = routed(build, TokenSkipAttention)
    tokens, t_emb, c = model.embed(*draw(model))
    block: Any = model.blocks[0]
    mask = block.masked(tokens, c, t_emb, None)[1][2]
    assert torch.equal(mask, block.token_selection(tokens))
    attended = tokens + modulation(block, c)[2] * block.attn(
        modulate(block.norm1(tokens), *block.adaLN_modulation(c).chunk(6, dim=1)[:2])
    )
    assert not torch.equal(mask, block.token_selection(attended))


@torch.no_grad()
def test_soft_gates_scale_the_weights_they_gate(build, draw) -> None:
    model = routed(build, SoftGated)
    for block in model.blocks:
        for layer in (block.attn_rate.router, block.mlp_rate.router, block.token_selection.mlp_head[2]):
            layer.weight.zero_()  # constant gates
    static = same_backbone(build, DiT, model)
    for soft, block in zip(model.blocks, static.blocks, strict=True):
        for router, layers in ((soft.attn_rate, "proj"), (soft.mlp_rate, "fc1")):
            gates = torch.cat([torch.ones(1), 2 * torch.sigmoid(router.router.bias)])
            if layers == "proj":
                block.attn.proj.weight.mul_(gates.repeat_interleave(C // H))
            else:
                block.mlp.fc1.weight.mul_(gates.repeat_interleave(4 * C // H)[:, None])
                block.mlp.fc1.bias.mul_(gates.repeat_interleave(4 * C // H))
        token = 2 * torch.sigmoid(soft.token_selection.mlp_head[2].bias)
        block.adaLN_modulation[1].weight[5 * C :] *= token
        block.adaLN_modulation[1].bias[5 * C :] *= token
    x, t, y = draw(model)
    torch.testing.assert_close(model(x, t, y), static(x, t, y), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_soft_gates_lie_between_zero_and_two_and_training_adds_no_noise(build, draw) -> None:
    model = routed(build, SoftGated)
    x, t, y = draw(model)
    output, routing = model.route(x, t, y)
    for name in MASKS:
        gates = getattr(routing, name)
        assert (gates > 0).all() and (gates < 2).all() and gates.unique().numel() > 4
    assert torch.equal(model.train().route(x, t, y)[0], output)


def test_fresh_soft_gates_can_learn(build, draw) -> None:
    static = build(DiT, class_dropout_prob=0.0)
    model = SoftGated(**static.config.kwargs())
    load_into(model, Checkpoint(static.state_dict()))
    model(*draw(model)).square().mean().backward()
    for block in model.blocks:
        for layer in (block.attn_rate.router, block.mlp_rate.router, block.token_selection.mlp_head[2]):
            assert layer.weight.grad.abs().amax() > 1e-5


def test_rates_of_work_are_one_for_soft_gates_and_those_of_tokens_for_queries() -> None:
    masks = (torch.rand(2, 3, 4), torch.rand(2, 3, 4), (torch.rand(2, 3, 8) < 0.5).float())
    soft, tokens, plain = (kind(*masks) for kind in (SoftRouting, TokenRouting, Routing))
    for rate in (soft.head_rate, soft.channel_rate, soft.token_rate, soft.query_rate, plain.query_rate):
        assert torch.equal(rate, torch.ones(2, 3))
    assert torch.equal(tokens.query_rate, plain.token_rate)
    assert type(tokens.shuffled()) is TokenRouting


# Random routing.


@torch.no_grad()
def test_random_masks_meet_the_rates_of_a_learned_run(build) -> None:
    model = build(RandomRouting, depth=8)
    rates = (0.6, 0.4, 0.7)
    model.set_rates(rates)
    assert model.draw(torch.arange(0, 1000, 4)).rates == pytest.approx(rates, abs=0.02)
    assert model.train().draw(torch.zeros(250, dtype=torch.int64)).rates == pytest.approx(rates, abs=0.02)


@torch.no_grad()
def test_random_masks_are_fixed_by_seed_and_timestep_in_evaluation(build) -> None:
    model = build(RandomRouting, depth=8)
    model.set_rates((0.6, 0.4, 0.5))
    t = torch.tensor([10, 500, 10, 999])
    drawn = model.draw(t)
    assert (drawn.heads[..., 0] == 1).all() and (drawn.channels[..., 0] == 1).all()
    for mask in (drawn.heads, drawn.channels, drawn.tokens):
        assert torch.equal(mask[0], mask[2]) and not torch.equal(mask[0], mask[3])
    model.set_rates((0.6, 0.4, 0.5), seed=7)
    assert not torch.equal(model.draw(t).tokens, drawn.tokens)
    assert torch.equal(copy.deepcopy(model).draw(t).tokens, model.draw(t).tokens)


@torch.no_grad()
def test_random_masks_are_new_for_every_image_and_step_in_training(build) -> None:
    model = routed(build, RandomRouting).train()
    t = torch.full((8,), 10)
    torch.manual_seed(0)
    first, second = model.draw(t), model.draw(t)
    torch.manual_seed(0)
    again = model.draw(t)
    for name in MASKS:
        mask = getattr(first, name)
        assert torch.equal(mask, getattr(again, name)) and not torch.equal(mask, getattr(second, name))
        assert mask.unique(dim=0).shape[0] > 1


@torch.no_grad()
def test_the_state_dict_keeps_the_rates_of_random_routing(build, draw) -> None:
    model = routed(build, RandomRouting)
    again = RandomRouting(**model.config.kwargs()).eval()
    assert load_into(again, Checkpoint(model.state_dict())) == []
    assert torch.equal(again(*draw(model)), model(*draw(model)))


@pytest.mark.parametrize(
    ("rates", "name"),
    [((0.1, 0.5, 0.5), "heads"), ((0.5, 1.1, 0.5), "channel groups"), ((0.5, 0.5, float("nan")), "tokens")],
)
def test_rates_that_no_mask_meets_are_refused(build, refusal, rates: tuple[float, float, float], name: str) -> None:
    with refusal(f"of {name}", "must lie in"):
        routed(build, RandomRouting).set_rates(rates)


# Realised inference.


@pytest.mark.parametrize("kind", [DyDiT, *KINDS])
@torch.no_grad()
def test_the_engine_computes_exactly_the_variants_that_say_so(build, draw, kind: type[DyDiT]) -> None:
    model = routed(build, kind)
    assert kind.realised == (kind in (DyDiT, *SWAPPED))
    if kind.realised:
        x, t, y = draw(model, 4)
        engine = Engine(model, WidthPlan.from_routers(model, t.tolist()))
        torch.testing.assert_close(engine(x, t, y), model(x, t, y), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_router_parameters_are_what_it_adds_to_dit(build, kind: type[DyDiT]) -> None:
    sizes = [sum(parameter.numel() for parameter in model.parameters()) for model in (build(kind), build(DiT))]
    assert build(kind).router_parameters() == sizes[0] - sizes[1]
    assert all(len(routers(block)) == 3 for block in build(kind).blocks)


def test_soft_gates_and_whole_tokens_cost_the_parameters_of_dydit(build) -> None:
    for kind in (SoftGated, TokenSkipAttention, LayerSkip):
        model, dydit = build(kind), build(DyDiT)
        shapes = [{key: value.shape for key, value in each.state_dict().items()} for each in (model, dydit)]
        assert shapes[0] == shapes[1]
