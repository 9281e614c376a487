from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dydit import DiT, DyDiT, Routing
from dydit.dit import modulate
from dydit.dydit import is_router_key

H, T, C, DEPTH = 4, 16, 48, 2
HEAD, GROUP = C // H, 4 * C // H
quick = settings(max_examples=15, deadline=None)


def masks(seed: int, share: float, n: int = 3) -> Routing:
    """Random masks alike for the batch's widths; head and group 0 on."""
    generator = torch.Generator().manual_seed(seed)
    widths = (torch.rand(2, 1, DEPTH, H, generator=generator) < share).float().repeat(1, n, 1, 1)
    widths[..., 0] = 1
    return Routing(widths[0], widths[1], (torch.rand(n, DEPTH, T, generator=generator) < share).float())


def everything(n: int, share: float = 1.0) -> Routing:
    return Routing(*(torch.full((n, DEPTH, size), share) for size in (H, H, T)))


def open_routers(model: DyDiT) -> DyDiT:
    for block in model.blocks:
        for router in (block.attn_rate, block.mlp_rate, block.token_selection):
            for parameter in router.parameters():
                torch.nn.init.zeros_(parameter)
            router.reset()
    return model


def test_random_routers_open_some_and_close_some(build, draw) -> None:
    _, routing = build().route(*draw(build(), 8))
    for rate in (routing.head_rate, routing.channel_rate, routing.token_rate):
        assert 0.2 < rate.mean() < 0.9


def test_the_state_dict_has_exactly_the_published_keys(build) -> None:
    layers = ["x_embedder.proj", "t_embedder.mlp.0", "t_embedder.mlp.2", "final_layer.linear"]
    layers += ["final_layer.adaLN_modulation.1"]
    static = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "adaLN_modulation.1"]
    routers = ["attn_rate.router", "mlp_rate.router", "token_selection.mlp_head.0", "token_selection.mlp_head.2"]
    bare = {"pos_embed", "y_embedder.embedding_table.weight"}

    def keys(parts: list[str]) -> set[str]:
        names = layers + [f"blocks.{i}.{part}" for i in range(DEPTH) for part in parts]
        return bare | {f"{name}.{kind}" for name in names for kind in ("weight", "bias")}

    assert set(build(DiT).state_dict()) == keys(static)
    state = build(DyDiT).state_dict()
    assert set(state) == keys(static + routers)
    assert {key for key in state if is_router_key(key)} == keys(static + routers) - keys(static)
    for i in range(DEPTH):
        shapes = [tuple(state[f"blocks.{i}.{name}.weight"].shape) for name in routers]
        assert shapes == [(H - 1, C), (H - 1, C), (C // 16, C), (1, C // 16)]


@pytest.mark.parametrize("config", [{}, {"hidden_size": 32, "num_heads": 2, "depth": 3}, {"hidden_size": 8}])
def test_router_parameters_are_what_dydit_adds_to_dit(build, config: dict[str, int]) -> None:
    model = build(**config)
    width, heads = model.config.hidden_size, model.config.num_heads
    hidden = max(width // 16, 1)
    expected = model.config.depth * (2 * (width + 1) * (heads - 1) + (width + 1) * hidden + hidden + 1)
    assert model.router_parameters() == expected
    sizes = [sum(p.numel() for p in m.parameters()) for m in (model, build(DiT, **config))]
    assert sizes[0] - sizes[1] == expected


@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_open_routers_give_the_complete_model(build, draw, training: bool) -> None:
    model = open_routers(build(class_dropout_prob=0.0)).train(training)
    x, t, y = draw(model)
    output, routing = model.route(x, t, y)
    assert all(mask.all() for mask in (routing.heads, routing.channels, routing.tokens))
    assert torch.equal(output, model.complete(x, t, y))


@torch.no_grad()
def test_the_complete_model_is_the_static_model_of_the_same_weights(build, draw) -> None:
    model, static = build(DyDiT), build(DiT, seed=1)
    static.load_state_dict({key: value for key, value in model.state_dict().items() if not is_router_key(key)})
    x, t, y = draw(model)
    assert torch.equal(model.complete(x, t, y), static(x, t, y))
    assert not torch.allclose(model(x, t, y), static(x, t, y), atol=1e-2)


@torch.no_grad()
def test_given_open_masks_replace_closed_routers(build, draw) -> None:
    model = build()
    x, t, y = draw(model)
    torch.testing.assert_close(model.route(x, t, y, everything(3))[0], model.complete(x, t, y), rtol=0, atol=0)


def forget(layer: torch.nn.Linear, rows: slice | None = None, columns: slice | None = None) -> None:
    """Other random weights (and biases, for rows) in a part of a layer."""
    if rows is not None:
        layer.weight[rows] = torch.randn_like(layer.weight[rows])
        layer.bias[rows] = torch.randn_like(layer.bias[rows])
    if columns is not None:
        layer.weight[:, columns] = torch.randn_like(layer.weight[:, columns])


def forget_heads(model: DyDiT, routing: Routing, closed: bool) -> int:
    forgotten = 0
    for index, block in enumerate(model.blocks):
        for head in range(H):
            if routing.heads[:, index, head].any() != closed:
                own = slice(head * HEAD, (head + 1) * HEAD)
                for part in range(3):
                    forget(block.attn.qkv, rows=slice(part * C + own.start, part * C + own.stop))
                forget(block.attn.proj, columns=own)
                forgotten += 1
    return forgotten


def forget_groups(model: DyDiT, routing: Routing, closed: bool) -> int:
    forgotten = 0
    for index, block in enumerate(model.blocks):
        for group in range(H):
            if routing.channels[:, index, group].any() != closed:
                own = slice(group * GROUP, (group + 1) * GROUP)
                forget(block.mlp.fc1, rows=own)
                forget(block.mlp.fc2, columns=own)
                forgotten += 1
    return forgotten


@pytest.mark.parametrize("forget_part", [forget_heads, forget_groups])
@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.0, 0.3, 0.7]))
@quick
@torch.no_grad()
def test_the_weights_of_closed_heads_and_groups_do_not_matter(
    build, draw, forget_part: Callable[[DyDiT, Routing, bool], int], seed: int, share: float
) -> None:
    model, routing = build(), masks(seed, share)
    x, t, y = draw(model)
    before = model.route(x, t, y, routing)[0]
    forget_part(model, routing, True)
    assert torch.equal(model.route(x, t, y, routing)[0], before)


@pytest.mark.parametrize("forget_part", [forget_heads, forget_groups])
@torch.no_grad()
def test_the_weights_of_open_heads_and_groups_do_matter(build, draw, forget_part) -> None:
    model, routing = build(), masks(0, 0.5)
    x, t, y = draw(model)
    before = model.route(x, t, y, routing)[0]
    assert forget_part(model, routing, False) > 0
    assert (model.route(x, t, y, routing)[0] - before).abs().amax() > 1e-2


@torch.no_grad()
def test_the_routers_own_closed_heads_and_groups_do_not_matter(build, draw) -> None:
    model = build(seed=2)
    x, t, y = draw(model)
    t = t[:1].expand(3)  # one timestep, so that a closed head is closed for every image
    before, routing = model.route(x, t, y)
    assert forget_heads(model, routing, True) > 0
    assert forget_groups(model, routing, True) > 0
    assert torch.equal(model(x, t, y), before)


@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.0, 0.5, 1.0]))
@quick
@torch.no_grad()
def test_without_tokens_the_mlp_does_not_matter(build, draw, seed: int, share: float) -> None:
    model, routing = build(), masks(seed, share)
    routing = Routing(routing.heads, routing.channels, torch.zeros_like(routing.tokens))
    x, t, y = draw(model)
    before = model.route(x, t, y, routing)[0]
    for block in model.blocks:
        for layer in (block.mlp.fc1, block.mlp.fc2):
            forget(layer, rows=slice(None))
    assert torch.equal(model.route(x, t, y, routing)[0], before)


@given(token=st.integers(0, T - 1), image=st.integers(0, 2))
@quick
@torch.no_grad()
def test_closing_a_token_in_the_last_block_changes_its_patch_alone(build, draw, token: int, image: int) -> None:
    model, routing = build(), everything(3)
    x, t, y = draw(model)
    before = model.route(x, t, y, routing)[0]
    routing.tokens[image, -1, token] = 0
    changed = (model.route(x, t, y, routing)[0] - before).abs().amax(1) > 0
    row, column = divmod(token, 4)
    expected = torch.zeros(3, 8, 8, dtype=torch.bool)
    expected[image, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = True
    assert torch.equal(changed, expected)


@torch.no_grad()
def test_a_closed_token_keeps_its_residual_value(build, draw) -> None:
    model = build()
    tokens, t_emb, c = model.embed(*draw(model))
    block = model.blocks[0]
    out, (heads, _, mask) = block.masked(tokens, c, t_emb, None)
    shift, scale, gate = block.adaLN_modulation(c).chunk(6, dim=1)[:3]
    attended = tokens + gate[:, None] * block.attn(modulate(block.norm1(tokens), shift, scale), heads)
    closed = mask == 0
    assert closed.any()
    assert torch.equal(out[closed], attended[closed])
    assert (out[~closed] != attended[~closed]).any(-1).all()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
@torch.no_grad()
def test_given_its_own_masks_the_model_repeats_its_output(build, draw, training: bool, dtype: torch.dtype) -> None:
    model = build(class_dropout_prob=0.0).train(training)
    x, t, y = draw(model)
    output, routing = model.route(x, t, y)
    given_masks = Routing(*(mask.to(dtype) for mask in (routing.heads, routing.channels, routing.tokens)))
    again, used = model.route(x, t, y, given_masks)
    assert torch.equal(again, output)
    for name in ("heads", "channels", "tokens"):
        assert torch.equal(getattr(used, name), getattr(routing, name))


def test_widths_depend_on_the_timestep_alone(build, draw) -> None:
    model = build()
    x, t, y = draw(model, 8)
    t = t[:1].expand(8)
    routing = model.route(x, t, y)[1]
    for width in (routing.heads, routing.channels):
        assert torch.equal(width, width[:1].expand_as(width))
    assert routing.tokens.unique(dim=0).shape[0] > 1
    far = model.route(x, 999 - t, y)[1]
    assert not torch.equal(routing.heads, far.heads)


def test_the_gradient_of_a_training_step_reaches_every_router(build, draw) -> None:
    model = copy.deepcopy(build()).train()
    torch.manual_seed(0)
    output, routing = model.route(*draw(model))
    (output.square().mean() + routing.head_rate.mean()).backward()
    for name, parameter in model.named_parameters():
        if is_router_key(name):
            assert parameter.grad is not None
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("name", "size"),
    [("heads", (3, DEPTH, H + 1)), ("channels", (3, DEPTH + 1, H)), ("tokens", (2, DEPTH, T)), ("tokens", (3, T))],
)
def test_routing_of_another_shape_is_refused(build, draw, refusal, name: str, size: tuple[int, ...]) -> None:
    model = build()
    fitting = {"heads": H, "channels": H, "tokens": T}
    given_masks: dict[str, Tensor] = {key: torch.ones(3, DEPTH, last) for key, last in fitting.items()}
    given_masks[name] = torch.ones(size)
    with refusal(f"routing.{name}", str(size), str((3, DEPTH, fitting[name]))):
        model.route(*draw(model), Routing(**given_masks))
