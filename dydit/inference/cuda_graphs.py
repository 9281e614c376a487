"""CUDA graphs of whole forward passes: one launch instead of hundreds, for batches too small to fill the device."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor

from dydit.errors import InputError
from dydit.inference.engine import Engine
from dydit.inference.weight_slices import AttentionWeights, MlpWeights

Key = tuple[object, ...]
"""Shape and dtype of the latents, and the open widths."""

MAX_GRAPHS = 64


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, Tensor, Tensor]
    output: Tensor
    weights: list[AttentionWeights | MlpWeights]
    """Slices that the graph reads: held here, since the engine's cache may drop them."""


class GraphedForward:
    """An `Engine` whose forward passes are captured once and replayed: (x, t, y) -> output, equal to the engine's.

    Timesteps with the same open widths share a graph, and all graphs share one memory pool. Beside it every graph
    keeps the weight slices that it reads, which may exceed the engine's `memory_share`: lower `limit` to bound them.
    A batch that mixes timesteps runs ungraphed. Give `t` on the CPU to avoid the one synchronisation of a call.

    Written where no GPU was at hand: on the CPU only the refusal is tested, the rest by tests that need a GPU.

    Args:
        engine: on a CUDA device; its model, plan and token masks stay as they are from here on.
        limit: graphs to keep; the least recently used is dropped.

    Raises:
        InputError: no CUDA device, or slices of one step that the engine's cache cannot hold together.
    """

    def __init__(self, engine: Engine, limit: int = MAX_GRAPHS) -> None:
        device = engine.model.pos_embed.device
        if device.type != "cuda":
            raise InputError(f"graphs: the model is on {device}, graphs need a CUDA device; call the engine itself")
        if limit < 1:
            raise InputError(f"graphs: limit {limit} keeps no graph; give at least 1")
        self.engine = engine
        self.limit = limit
        self._device = device
        self._graphs: OrderedDict[Key, _Captured] = OrderedDict()
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @torch.inference_mode()
    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """As `Engine.__call__`."""
        plan = self.engine.plan
        steps = sorted(set(t.tolist())) if plan is not None else [0]
        if len(steps) > 1:
            return self.engine(x, t.to(self._device), y)
        key = (x.shape, x.dtype, None if plan is None else plan.opened(steps[0]))
        if key not in self._graphs:
            self._graphs[key] = self._capture(x, t, y, steps[0])
            if len(self._graphs) > self.limit:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        captured = self._graphs[key]
        for static, given in zip(captured.inputs, (x, t, y), strict=True):
            static.copy_(given, non_blocking=True)
        captured.graph.replay()
        return captured.output.clone()  # the next replay overwrites it

    def _capture(self, x: Tensor, t: Tensor, y: Tensor, step: int) -> _Captured:
        engine, weights = self.engine, self._weights(step)
        inputs = (x.to(self._device, copy=True), t.to(self._device, copy=True), y.to(self._device, copy=True))
        # Warm-up on the capturing stream: kernels are compiled and library workspaces allocated outside the graph.
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            for _ in range(2):
                engine.run(*inputs, step, engine.tokens)
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            output = engine.run(*inputs, step, engine.tokens)
        return _Captured(graph, inputs, output, weights)

    def _weights(self, step: int) -> list[AttentionWeights | MlpWeights]:
        """The slices of one step, all of them in the engine's cache, so that none is copied during a capture."""
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
