from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dydit import Routing
from dydit.routing import TAU, TokenRouter, WidthRouter, gumbel_sigmoid

logits_lists = st.lists(st.floats(-200, 200, width=32), min_size=1, max_size=12)
quick = settings(max_examples=40, deadline=None)


def random_routing(seed: int, n: int = 3, blocks: int = 2, heads: int = 5, tokens: int = 7) -> Routing:
    """Widths alike in the batch, as one timestep makes them; every token on its own."""
    generator = torch.Generator().manual_seed(seed)

    def mask(*shape: int) -> Tensor:
        return (torch.rand(shape, generator=generator) < 0.5).float()

    widths = [mask(1, blocks, heads).expand(n, -1, -1).clone() for _ in range(2)]
    for width in widths:
        width[..., 0] = 1
    return Routing(widths[0], widths[1], mask(n, blocks, tokens))


@pytest.mark.parametrize("training", [True, False])
@given(values=logits_lists)
@quick
def test_a_gate_is_exactly_open_or_closed(training: bool, values: list[float]) -> None:
    logits = torch.tensor(values)
    gate = gumbel_sigmoid(logits, training)
    assert gate.shape == logits.shape
    assert gate.dtype == logits.dtype
    assert ((gate == 0) | (gate == 1)).all()


@given(values=logits_lists)
@quick
def test_evaluation_opens_exactly_the_positive_logits(values: list[float]) -> None:
    logits = torch.tensor(values)
    gate = gumbel_sigmoid(logits, training=False)
    clear = logits.abs() > 1e-6  # below, sigmoid rounds to one half
    assert torch.equal(gate[clear].bool(), logits[clear] > 0)


def test_evaluation_draws_no_random_number() -> None:
    state = torch.get_rng_state()
    gumbel_sigmoid(torch.zeros(5), training=False)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_gradient_of_a_training_gate_is_that_of_the_soft_gate() -> None:
    logits = torch.linspace(-6, 6, 41).requires_grad_()
    torch.manual_seed(3)
    gumbel_sigmoid(logits, training=True).sum().backward()
    torch.manual_seed(3)
    uniform = torch.rand(41).clamp(1e-7, 1 - 1e-7)
    soft = torch.sigmoid((logits.detach() + torch.logit(uniform)) / TAU)
    torch.testing.assert_close(logits.grad, soft * (1 - soft) / TAU, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("tau", [1.0, TAU])
@pytest.mark.parametrize("logit", [-3.0, -1.0, 0.0, 0.5, 2.0])
def test_a_training_gate_opens_with_the_probability_of_its_logit(logit: float, tau: float) -> None:
    torch.manual_seed(0)
    rate = gumbel_sigmoid(torch.full((20_000,), logit), True, tau).mean().item()
    assert rate == pytest.approx(torch.sigmoid(torch.tensor(logit)).item(), abs=0.015)  # 4 standard deviations


def test_training_noise_is_a_difference_of_two_gumbel_variables() -> None:
    torch.manual_seed(0)
    logits = torch.zeros(20_000, requires_grad=True)
    gumbel_sigmoid(logits, True, 1.0).sum().backward()
    gumbel = torch.distributions.Gumbel(0.0, 1.0)
    soft = torch.sigmoid(gumbel.sample((20_000,)) - gumbel.sample((20_000,)))
    expected = (soft * (1 - soft)).mean().item()  # 1/6
    assert expected == pytest.approx(1 / 6, abs=0.003)
    assert logits.grad.mean().item() == pytest.approx(1 / 6, abs=0.003)


@given(values=st.lists(st.floats(-200, 200, width=32), min_size=3, max_size=3), training=st.booleans())
@quick
def test_the_first_head_or_group_is_always_on(values: list[float], training: bool) -> None:
    router = WidthRouter(4, 4).train(training)
    with torch.no_grad():
        router.router.bias.copy_(torch.tensor(values))
        mask = router(torch.randn(6, 4))
    assert mask.shape == (6, 4)
    assert (mask[:, 0] == 1).all()


@pytest.mark.parametrize("training", [True, False])
def test_fresh_routers_are_open(training: bool) -> None:
    torch.manual_seed(0)
    width, token = WidthRouter(48, 4).train(training), TokenRouter(48, 3).train(training)
    width.reset()
    token.reset()
    with torch.no_grad():
        assert width(torch.randn(64, 48)).all()
        assert token(torch.randn(64, 16, 48)).all()


@given(seed=st.integers(0, 10_000))
@quick
def test_stacking_layers_gives_the_routing_back(seed: int) -> None:
    routing = random_routing(seed, blocks=3)
    again = Routing.stack([routing.layer(index) for index in range(3)])
    for name in ("heads", "channels", "tokens"):
        assert torch.equal(getattr(again, name), getattr(routing, name))


def test_layers_of_different_number_are_not_stacked() -> None:
    with pytest.raises(ValueError, match="zip"):
        Routing.stack([(torch.ones(1, 2), torch.ones(1, 2), torch.ones(1, 3)), (torch.ones(1, 2), torch.ones(1, 2))])


def test_rates_are_the_open_shares_of_each_image_and_block() -> None:
    heads = torch.tensor([[[1, 0, 0, 0], [1, 1, 0, 0]]])
    channels = torch.tensor([[[1, 1, 1, 0], [1, 0, 0, 0]]])
    tokens = torch.tensor([[[True, False], [True, True]]])
    routing = Routing(heads, channels, tokens)
    assert routing.head_rate.tolist() == [[0.25, 0.5]]
    assert routing.channel_rate.tolist() == [[0.75, 0.25]]
    assert routing.token_rate.tolist() == [[0.5, 1.0]]


@given(seed=st.integers(0, 10_000), n=st.integers(1, 4), heads=st.integers(1, 6), tokens=st.integers(1, 9))
@quick
def test_a_shuffled_routing_keeps_rates_shapes_and_the_first_head_and_group(
    seed: int, n: int, heads: int, tokens: int
) -> None:
    routing = random_routing(seed, n, 2, heads, tokens)
    shuffled = routing.shuffled(torch.Generator().manual_seed(seed))
    for rate in ("head_rate", "channel_rate", "token_rate"):
        assert torch.equal(getattr(shuffled, rate), getattr(routing, rate))
    for name in ("heads", "channels", "tokens"):
        assert getattr(shuffled, name).shape == getattr(routing, name).shape
    for width in (shuffled.heads, shuffled.channels):
        assert (width[..., 0] == 1).all()
        assert torch.equal(width, width[:1].expand_as(width))


def test_shuffling_is_reproducible_and_moves_widths_and_tokens() -> None:
    routing = random_routing(0, heads=16, tokens=64)
    first, again, other = (routing.shuffled(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    for name in ("heads", "channels", "tokens"):
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert not torch.equal(getattr(first, name), getattr(other, name))
        assert not torch.equal(getattr(first, name), getattr(routing, name))


def test_shuffled_tokens_differ_between_images_and_between_blocks() -> None:
    tokens = (torch.arange(64) < 32).float().expand(2, 2, 64)
    routing = random_routing(0, n=2, tokens=64)
    shuffled = Routing(routing.heads, routing.channels, tokens).shuffled(torch.Generator().manual_seed(0)).tokens
    assert not torch.equal(shuffled[0], shuffled[1])
    assert not torch.equal(shuffled[:, 0], shuffled[:, 1])


def test_every_place_is_equally_likely_after_shuffling() -> None:
    mask = torch.zeros(1, 1000, 5)
    mask[..., :3] = 1  # head 0 and two more of four
    shuffled = Routing(mask, mask, mask).shuffled(torch.Generator().manual_seed(0))
    torch.testing.assert_close(shuffled.heads[..., 1:].mean((0, 1)), torch.full((4,), 0.5), rtol=0, atol=0.07)
    torch.testing.assert_close(shuffled.tokens.mean((0, 1)), torch.full((5,), 0.6), rtol=0, atol=0.07)


def test_random_masks_meet_the_rates_and_share_their_widths() -> None:
    rates = (0.6, 0.4, 0.3)
    routing = Routing.random((2, 400, 6, 64), rates, torch.Generator().manual_seed(0))
    assert routing.rates == pytest.approx(rates, abs=0.02)
    for mask in (routing.heads, routing.channels):
        assert (mask[..., 0] == 1).all()
        assert torch.equal(mask[0], mask[1])
    assert not torch.equal(routing.tokens[0], routing.tokens[1])
