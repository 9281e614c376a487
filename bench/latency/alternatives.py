"""What a user would run instead of this project's engines: the same static DiT, same weights, by other libraries.

Each stands in the tables under the name of its library. One that is not installed, or cannot compute the network here,
stands there as `not run`, with the reason.
"""

from __future__ import annotations

import copy
import importlib
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dydit import DiT, InputError, Model
from dydit.dit import timestep_rows
from dydit.inference import Engine
from dydit.inference.torch_blocks import TorchBlocks

Inputs = tuple[Tensor, Tensor, Tensor]
"""Images, timesteps (N,) and labels, such as the network will be called with."""
Build = Callable[[DiT, Inputs], Model]
"""A static DiT, in evaluation mode, on its device and in its dtype, and inputs -> what computes it."""

AGREEMENT = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""How far an output may lie from that of the static engine, of the largest value; TF32 and bfloat16 round like this."""
EXTRA = "python -m pip install 'dydit-bench[alternatives]'"


class NotRun(Exception):
    """An alternative that cannot be timed here, and why."""


def build_alternatives(
    names: Sequence[str], static: DiT, inputs: Inputs, expected: Tensor
) -> tuple[dict[str, Model], dict[str, str]]:
    """What computes the static model by each of these names; and, of those that do not, why.

    Each is called once, which compiles it, and its output compared with the `expected` one.
    """
    if names:  # what was compiled for the last batch size counts towards torch's limit of recompilations
        torch.compiler.reset()
    built: dict[str, Model] = {}
    refused: dict[str, str] = {}
    for name in names:
        try:
            model = ALTERNATIVES[name](static, inputs)
            _check_agreement(model(*inputs), expected)
            built[name] = model
        except Exception as error:  # whatever a library raises over a network that it cannot compute
            text = str(error).strip().splitlines()
            refused[name] = f"not run: {text[0][:200] if text else type(error).__name__}"
    return built, refused


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """The alternatives of these names; `all` stands for every one.

    Raises:
        InputError: no such name.
    """
    for name in names:
        if name not in (*ALTERNATIVES, "all"):
            raise InputError(f"alternative {name!r}: choose of {', '.join(ALTERNATIVES)}, or all")
    return tuple(ALTERNATIVES) if "all" in names else tuple(dict.fromkeys(names))


def _check_agreement(output: Tensor, expected: Tensor) -> None:
    apart = float((output.float() - expected.float()).abs().max() / expected.float().abs().max())
    if not apart <= AGREEMENT[expected.dtype]:
        raise NotRun(f"its output differs from that of the static engine by {apart:.2g} of the largest value")


def _library(name: str) -> Any:
    """An optional library, imported when it is asked for."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise NotRun(f"{name} cannot be imported ({error}); {EXTRA}") from None


def in_inference_mode(call: Callable[..., Any]) -> Model:
    """A model that gives its network one timestep for each image, without gradients."""

    @torch.inference_mode()
    def forward(x: Tensor, t: Tensor | int, y: Tensor) -> Tensor:
        output: Tensor = call(x, timestep_rows(t, x), y)
        return output

    return forward


def to_diffusers(model: DiT) -> Any:
    """A diffusers transformer with the weights of a static DiT, in evaluation mode.

    Each of its blocks holds a copy of the timestep and label embedders. Its frequencies divide by one less than the
    published code's (`downscale_freq_shift`); that is set back here. It needs an MLP ratio of 4.
    """
    from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

    from dydit.checkpoint import layouts

    config = model.config
    twin = DiTTransformer2DModel(
        num_attention_heads=config.num_heads,
        attention_head_dim=config.head_dim,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        num_layers=config.depth,
        sample_size=config.input_size,
        patch_size=config.patch_size,
        num_embeds_ada_norm=config.num_classes,
        norm_eps=1e-6,
    )
    for block in twin.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    state = layouts.diffusers_keys(model.state_dict(), config.depth)
    twin.load_state_dict(state, strict=True)
    return twin.eval()


def _diffusers(static: DiT, _: Inputs) -> Model:
    # nn.Module's own `to`: diffusers' prints a warning at every change of dtype.
    twin = torch.nn.Module.to(to_diffusers(static), static.pos_embed.device, static.pos_embed.dtype)
    return in_inference_mode(lambda x, t, y: twin(x, timestep=t, class_labels=y).sample)


def _compiled(of_engine: bool, freezing: bool) -> Build:
    """By torch.compile with its default backend; `freezing` makes the weights constants, packed for the kernels."""

    def build(static: DiT, inputs: Inputs) -> Model:
        blocks = TorchBlocks(packs=False) if static.pos_embed.device.type == "cpu" else None
        engine = Engine(static, backend=blocks)
        engine(*inputs)  # takes the memory that it keeps: without it the first forward is another, compiled in vain
        call = (lambda x, t, y: engine.run(x, t, y, 0, None)) if of_engine else static
        return in_inference_mode(torch.compile(call, dynamic=False, options={"freezing": freezing}))

    return build


def _on_cpu(static: DiT, library: str) -> None:
    if static.pos_embed.device.type != "cpu":
        raise NotRun(f"{library} is timed on the CPU alone")


def _onnxruntime(static: DiT, inputs: Inputs) -> Model:
    _on_cpu(static, "onnxruntime")
    if static.pos_embed.dtype != torch.float32:
        raise NotRun("onnxruntime has no kernels for bfloat16 on a CPU")
    runtime = _library("onnxruntime")
    _library("onnxscript")
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "dit.onnx")
        torch.onnx.export(static, inputs, path, dynamo=True, verbose=False)
        session = runtime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def call(*values: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, dict(zip(names, map(Tensor.numpy, values), strict=True)))[0])

    return in_inference_mode(call)


def _openvino(static: DiT, inputs: Inputs) -> Model:
    _on_cpu(static, "openvino")
    openvino = _library("openvino")
    dtype = static.pos_embed.dtype
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32",
    }
    # Its inputs and weights are float32; the hint decides in what it computes.
    x, t, y = inputs
    model = openvino.convert_model(copy.deepcopy(static).float(), example_input=(x.float(), t, y))
    compiled = openvino.compile_model(model, "CPU", settings)

    def call(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return torch.from_numpy(compiled([value.numpy() for value in (x.float(), t, y)])[0]).to(dtype)

    return in_inference_mode(call)


ALTERNATIVES: Mapping[str, Build] = {
    "diffusers": _diffusers,
    "torch.compile": _compiled(of_engine=False, freezing=False),
    "torch.compile-freezing": _compiled(of_engine=False, freezing=True),
    "torch.compile-static": _compiled(of_engine=True, freezing=False),
    "torch.compile-static-freezing": _compiled(of_engine=True, freezing=True),
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}
"""By the name of the library that computes; `-static` is this project's static engine, given to torch.compile."""
