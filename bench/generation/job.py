"""Options of a generation, checked once, and the job that they make: network, engine, sampler, decoder and device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.generation import samplers
from bench.generation.decoding import Decoder, open_decoder
from bench.generation.engines import ENGINES, OWN_ENGINE, behind_engine, choose_engine, tune
from bench.generation.labels import DrawnLabels, choose_labels
from bench.machine import DTYPES, check_arithmetic, check_fits, own_device, status
from bench.models import Candidate, SamplingModel, is_factory, load_candidate
from bench.options import (
    BATCH,
    IMAGES,
    SAMPLER_STEPS,
    SEED,
    AutoencoderOptions,
    CheckpointOptions,
    DtypeOptions,
    OutputOptions,
    ProcessOptions,
    Range,
    Tf32Options,
    option,
    shared_values,
)
from bench.records import tensors_sha256
from dydit import DiT, InputError, checkpoint, guidance_branches

UNIT = 64
"""Images per unit, unless a run is smaller."""


@dataclass(frozen=True, kw_only=True)
class SamplingOptions(AutoencoderOptions, ProcessOptions, CheckpointOptions):
    """How a checkpoint is sampled; the defaults are those of the paper's headline rows."""

    sampler: str = option("ddpm", help="ddpm, ddim, dpm-solver++, or lcm for a network distilled into one")
    steps: int = option(250, help="of the sampler", within=SAMPLER_STEPS)
    scale: float = option(1.5, help="of guidance; 1 is none", within=Range(1, 1000))
    seed: int = option(0, help="of labels and noise", within=SEED)
    classes: str | None = option(
        None,
        metavar="A,B,...",
        help="draw labels of these alone: names that the checkpoint records, or numbers (default: the classes that it "
        "was trained on, where it records them, or all)",
    )
    unit: int | None = option(
        None,
        metavar="N",
        help=f"consecutive images per batch and file (default: as the directory's run, {UNIT} in a new one); "
        "decides rounding, as the device does",
        within=BATCH,
    )


@dataclass(frozen=True, kw_only=True)
class DrawingOptions(SamplingOptions, DtypeOptions, Tf32Options):
    """What `generate` is told but for the directory; nothing is checked, for the run may be one of another machine."""

    checkpoint: str = ""
    model: str | None = option(
        None,
        metavar="NAME",
        help="such as DyDiT-XL/2, for files that do not name their model; or package.module:factory, a network of your "
        "own instead of a checkpoint",
    )
    images: int = option(metavar="N", help="how many; the paper's rows use 50000", within=IMAGES)
    engine: str | None = option(
        None, help="realised (default of a DyDiT), masked (default of an ablation), or static (default of a DiT)"
    )
    png: bool = option(False, help="also write png/INDEX.png")


@dataclass(frozen=True, kw_only=True)
class GenerationOptions(DrawingOptions, OutputOptions):
    """What to generate, and where: a directory as in `bench.data.shards`, on a file system that all processes share.

    Raises:
        InputError: a value out of range, or one that this machine does not have.
    """

    out: Path = Path("results/local/samples")
    method: str | None = option(
        None, metavar="TEXT", help="put over the network, such as deepcache:2 or tome:0.2; see dydit.baselines"
    )

    @classmethod
    def of(cls, options: SamplingOptions, **others: Any) -> GenerationOptions:
        """The generation that the options of another command describe; `others` are fields that they lack or change."""
        return cls(**(shared_values(options, cls) | others))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.engine is not None and self.engine not in ENGINES:
            raise InputError(f"engine {self.engine!r}: choose one of {', '.join(ENGINES)}")
        if self.dtype not in DTYPES:
            raise InputError(f"dtype {self.dtype!r}: choose one of {', '.join(DTYPES)}")
        check_arithmetic(self.device, DTYPES[self.dtype], self.tf32)
        if self.method is not None and (self.engine is not None or is_factory(self.model)):
            other = f"--engine {self.engine}" if self.engine else f"--model {self.model}"
            raise InputError(
                f"--method {self.method} and {other}: a method runs networks in its own way; leave one out"
            )
        if is_factory(self.model) == bool(self.checkpoint):
            both = f"--checkpoint {self.checkpoint} and --model {self.model}: " if self.checkpoint else "--checkpoint: "
            raise InputError(f"{both}give a trained file, or --model package.module:factory in its place")
        if self.model is None:
            self.refuse(("resolution",), "it belongs to a model's name; give --model")
        elif is_factory(self.model):
            self.refuse(("resolution", "weights", "engine"), "a network of your own runs as it is")


@dataclass(frozen=True)
class GenerationJob:
    """Checked options and what they come to: a network in evaluation mode on the CPU, in float32, and what it needs.

    `labels` are those that images are drawn for.
    """

    options: GenerationOptions
    network: DiT | Candidate
    engine: str
    solver: samplers.Solver
    decoder: Decoder
    device: torch.device
    labels: DrawnLabels


def prepare_generation(options: GenerationOptions, local_rank: int = 0) -> GenerationJob:
    """Read the weights and the autoencoder, and choose engine, sampler and device.

    Raises:
        InputError: anything of these that cannot be had, or that does not fit the others.
    """
    solver = samplers.make_solver(options.sampler, options.steps)
    device = own_device(options.device, local_rank)
    network: DiT | Candidate
    found = None
    if options.model is not None and is_factory(options.model):
        network, engine = load_candidate(options.model), OWN_ENGINE
    else:
        network, found = _read_network(options)
        engine = options.method or choose_engine(type(network), options.engine)
        if options.method is not None:
            behind_engine(network, engine, options.method, solver.timesteps, torch.float32)  # refuses what does not fit
        if options.scale != 1.0 and network.config.class_dropout_prob == 0.0:
            raise InputError(f"{options.checkpoint}: trained without a null label, which guidance needs; use --scale 1")
    config, named = network.config, options.checkpoint or str(options.model)
    if options.sampler == "ddpm" and not config.learn_sigma:
        raise InputError(f"{named}: predicts no variances, which ddpm needs; use --sampler ddim")
    labels = choose_labels(options.classes, {} if found is None else found.record, config, named)
    return GenerationJob(options, network, engine, solver, open_decoder(config, options.vae, device), device, labels)


def images_per_unit(options: GenerationOptions, earlier: int | None = None) -> int:
    """Images per unit of a run: `options.unit`; or as the `earlier` run that it continues; or `UNIT`.

    A run of fewer than `UNIT` images is one unit.
    """
    return options.unit or earlier or min(UNIT, options.images)


def sampling_model(job: GenerationJob, unit: int) -> SamplingModel:
    """The network on its device behind its engine: (x, t, y) in float32 -> output in float32.

    Raises:
        InputError: a guided batch of `unit` images does not fit the device's free memory.
    """
    dtype, network = DTYPES[job.options.dtype], job.network
    if not isinstance(network, Candidate):
        check_fits(type(network).__name__, network.config, unit, job.device, dtype)
    network.to(job.device, dtype)
    return behind_engine(network, job.engine, job.options.method, job.solver.timesteps, dtype)


def tuned_kernels(job: GenerationJob, unit: int) -> dict[str, Any]:
    """`products`: the kernels that are fastest here for a guided batch of `unit` images; nothing without a choice.

    They decide rounding. So all processes of a run, and those that go on with it later, must use the same, and they
    stand in its manifest. To be called once the identity of the job is known, since it moves the network.
    """
    products = tune(sampling_model(job, unit), unit * guidance_branches(job.options.scale))
    return {"products": products} if products else {}


def generation_identity(job: GenerationJob) -> dict[str, Any]:
    """What decides the content of image k, together with its unit; the first difference in this order is reported.

    `classes` stand in it where labels are not drawn from all of them.
    """
    options, on_cpu, network = job.options, job.device.type == "cpu", job.network
    return {
        "model": network.name if isinstance(network, Candidate) else type(network).__name__,
        "config": network.config.kwargs(),
        "weights_sha256": tensors_sha256(network.state_dict()),
        **({"source_sha256": network.source_sha256()} if isinstance(network, Candidate) else {}),
        "seed": options.seed,
        "sampler": options.sampler,
        "steps": options.steps,
        "scale": options.scale,
        "engine": job.engine,
        "dtype": options.dtype,
        "tf32": options.tf32,
        "threads": options.threads if on_cpu else None,
        "device": job.device.type,
        "decoding": job.decoder.name,
        "vae_sha256": tensors_sha256(weights) if (weights := job.decoder.weights()) else None,
        **({} if job.labels.all_classes else {"classes": list(job.labels.labels)}),
    }


def _read_network(options: GenerationOptions) -> tuple[DiT, checkpoint.Checkpoint]:
    network, found = checkpoint.load_model(
        options.checkpoint, model=options.model, resolution=options.resolution, weights=options.weights
    )
    for note in found.notes:
        status(f"{options.checkpoint}: {note}")
    return network, found
