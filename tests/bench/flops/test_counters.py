from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.flops import counters
from bench.flops.counters import UnknownOperator, fvcore_count, torch_count
from bench.flops.counts import meta_inputs
from dydit import DiT, DiTConfig, DyDiT
from dydit.flops import DYDIT_PAPER, FUSED_BLIND, MATMUL, macs

CONFIG = DiTConfig(
    input_size=8, patch_size=2, in_channels=4, hidden_size=32, depth=2, num_heads=4, num_classes=10
)  # fmt: skip


@torch.library.custom_op("dydit_tests::double", mutates_args=())
def double(x: Tensor) -> Tensor:
    return x * 2


@double.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Attention(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)


class Inverse(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.inv(x)


class Double(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return double(x)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("count", [fvcore_count, torch_count])
def test_attention_is_counted_by_formula(count, device):
    q, k, v = (torch.zeros(2, 3, tokens, width, device=device) for tokens, width in ((5, 8), (7, 8), (7, 8)))
    assert count(Attention(), (q, k, v)).total == 2 * 3 * 5 * 7 * (8 + 8)


@pytest.mark.parametrize("count", [fvcore_count, torch_count])
@pytest.mark.parametrize(
    ("module", "operator"), [(Inverse(), "linalg_inv"), (Double(), "dydit_tests.*double")], ids=["aten", "custom"]
)
def test_an_unknown_operator_is_an_error(count, module, operator):
    with pytest.raises(UnknownOperator, match=rf"no formula for .*{operator}.*bench/flops/counters.py"):
        count(module, (torch.eye(3),))


def test_a_free_name_in_another_namespace_is_unknown():
    assert counters._is_free("aten::mul") and counters._is_free("aten.add_")
    assert not counters._is_free("dydit_tests::mul")


@pytest.mark.parametrize("kind", [DiT, DyDiT])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_both_counters_equal_the_closed_form(kind, device):
    with torch.device(device):
        model = kind(**CONFIG.kwargs()).eval()
    inputs = tuple(torch.zeros_like(tensor, device=device) for tensor in meta_inputs(CONFIG))
    closed = macs(CONFIG, dynamic=kind is DyDiT)
    assert fvcore_count(model, inputs).total == closed.total(DYDIT_PAPER)
    assert torch_count(model, inputs).total == closed.total(MATMUL)


def test_unmodified_fvcore_is_blind_to_fused_attention():
    with torch.device("meta"):
        model = DiT(**CONFIG.kwargs()).eval()
    inputs, closed = meta_inputs(CONFIG), macs(CONFIG)
    blind = fvcore_count(model, inputs, unmodified=True)
    assert blind.total == closed.total(FUSED_BLIND)
    assert fvcore_count(model, inputs).total - blind.total == closed.scores_and_values


def test_torch_counts_what_ran_in_any_callable():
    weight = torch.zeros(8, 8)
    keep = torch.tensor([True, False, True, False])
    x = torch.zeros(4, 8)
    assert torch_count(lambda x: x @ weight, (x,)).by_operator == {"mm": 4 * 8 * 8}
    assert torch_count(lambda x: x[keep] @ weight, (x,)).total == 2 * 8 * 8


def test_counts_scale_with_the_batch():
    with torch.device("meta"):
        model = DiT(**CONFIG.kwargs()).eval()
    one = meta_inputs(CONFIG)
    three = tuple(tensor.expand(3, *tensor.shape[1:]) for tensor in one)
    assert torch_count(model, three).total == 3 * torch_count(model, one).total
    assert fvcore_count(model, three).total == 3 * fvcore_count(model, one).total
