"""CUDA graphs of whole forward passes: one launch instead of hundreds, for batches too small to fill the device."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor

from dydit.dit import timestep_rows
from dydit.errors import InputError
from dydit.inference.engine import Engine
from dydit.inference.weight_slices import AttentionWeights, MlpWeights

Key = tuple[object, ...]
"""Shape and dtype of the latents, and the open heads and channel groups."""

MAX_GRAPHS = 64


@dataclass(frozen=True)
class _Capture:
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, Tensor, Tensor]
    output: Tensor
    weights: list[AttentionWeights | MlpWeights]
    """The slices that the graph reads; kept here, because the engine's cache may drop them."""


class GraphedForward:
    """An `Engine` whose forward passes are captured once and replayed: (x, t, y) -> output, equal to the engine's.

    Timesteps with the same open widths share a graph, and all graphs share one memory pool. In addition every graph
    keeps the weight slices that it reads, which may exceed the engine's `memory_share`: lower `limit` to bound them.
    A batch that mixes timesteps runs without a graph. A call with a number as `t` does not wait for the device.

    Graphs need a GPU, and so do the tests of this class, except for that of its refusal on the CPU.

    Args:
        engine: on a CUDA device; its model, plan and token masks stay as they are from here on.
        limit: number of graphs to keep; the least recently used is dropped.

    Raises:
        InputError: the model is not on a CUDA device, its blocks wait for the device, or the slices of one step exceed
            the engine's cache.
    """

    def __init__(self, engine: Engine, limit: int = MAX_GRAPHS) -> None:
        device = engine.model.pos_embed.device
        if device.type != "cuda":
            raise InputError(f"graphs: the model is on {device}, graphs need a CUDA device; call the engine itself")
        if engine.plan is not None and engine.backend.waits:
            raise InputError("graphs: without Triton the host asks for the number of tokens; install triton")
        if limit < 1:
            raise InputError(f"graphs: limit {limit} keeps no graph; give at least 1")
        self.engine = engine
        self.limit = limit
        self._device = device
        self._graphs: OrderedDict[Key, _Capture] = OrderedDict()
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @torch.inference_mode()
    def __call__(self, x: Tensor, t: Tensor | int, y: Tensor) -> Tensor:
        """As `Engine.__call__`."""
        plan, steps = self.engine.plan, self.engine.steps(t)
        if len(steps) > 1:
            return self.engine(x, t, y)
        key = (x.shape, x.dtype, None if plan is None else plan.open_indices(steps[0]))
        if key not in self._graphs:
            self._graphs[key] = self._capture(x, timestep_rows(t, x), y, steps[0])
            if len(self._graphs) > self.limit:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        capture = self._graphs[key]
        images, timesteps, labels = capture.inputs
        images.copy_(x, non_blocking=True)
        timesteps.copy_(t, non_blocking=True) if isinstance(t, Tensor) else timesteps.fill_(t)
        labels.copy_(y, non_blocking=True)
        capture.graph.replay()
        return capture.output.clone()  # the next replay overwrites it

    def _capture(self, x: Tensor, t: Tensor, y: Tensor, step: int) -> _Capture:
        engine, weights = self.engine, self._weights(step)
        inputs = (x.to(self._device, copy=True), t.to(self._device, copy=True), y.to(self._device, copy=True))
        # Warm-up on the stream of the capture: kernels are compiled and library workspaces allocated before the graph.
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            for _ in range(2):
                engine.run(*inputs, step, engine.tokens)
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            output = engine.run(*inputs, step, engine.tokens)
        return _Capture(graph, inputs, output, weights)

    def _weights(self, step: int) -> list[AttentionWeights | MlpWeights]:
        """The slices of one step, after which all of them are in the engine's cache: a capture copies none."""
        engine = self.engine
        if engine.plan is None:
            return []
        engine.cache.next_forward()
        for _ in range(2):
            misses, weights = engine.cache.misses, list[AttentionWeights | MlpWeights]()
            for index in range(engine.model.config.depth):
                weights += engine.weights(index, step)
        if engine.cache.misses > misses:
            raise InputError("graphs: the slices of one step exceed the engine's memory_share; raise memory_share")
        return weights
