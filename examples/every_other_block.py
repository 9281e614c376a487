"""A method of one's own: on odd steps of a run, every other block of a trained DiT is left out.

docs/compare-your-method.md has the commands that count, time, sample and compare it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.records import shipped_data
from dydit import DiT, checkpoint, macs
from dydit.flops import block_macs


class EveryOtherBlock(torch.nn.Module):
    """Called as (x, t, y) like the network inside, in turn with the steps that `begin_run` announces."""

    def __init__(self, network: DiT) -> None:
        super().__init__()
        self.network, self.timesteps = network, [0]
        config = network.config
        self.in_channels, self.input_size, self.num_classes = config.in_channels, config.input_size, config.num_classes

    def begin_run(self, timesteps: Sequence[int]) -> None:
        self.timesteps = list(timesteps)  # no other state: the place of a step in the run follows from its timestep

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        odd = self.timesteps.index(int(t[0])) % 2
        tokens, _, c = self.network.embed(x, t, y)
        for index, block in enumerate(self.network.blocks):
            if not (odd and index % 2):
                tokens = block(tokens, c)
        return self.network.unpatchify(self.network.final_layer(tokens, c))

    def claimed_macs(self) -> float:
        """Multiply-adds of one image, mean over the run: a claim, which the suite holds against what it counts."""
        config, steps = self.network.config, len(self.timesteps)
        one_block = (block_macs(config) + 6 * config.depth * config.hidden_size**2) / config.depth
        return macs(config).total() - one_block * (config.depth // 2) * (steps // 2) / steps


def base() -> DiT:
    """The network without the method."""
    return checkpoint.load_model(shipped_data() / "digits" / "dit-m.safetensors")[0]


def model() -> EveryOtherBlock:
    """What `--model examples.every_other_block:model` calls."""
    return EveryOtherBlock(base())
