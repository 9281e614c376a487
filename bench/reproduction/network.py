"""The network of a run that has not started: known by its name, or by its file where that is here."""

from __future__ import annotations

import json
from dataclasses import dataclass

from bench.generation import decoding
from bench.generation.engines import choose_engine, named_class
from bench.generation.job import GenerationOptions
from bench.reproduction.requirements import Requirement
from dydit import VAE_DOWNSAMPLING, DiTConfig, DyDiT, InputError, check_lambda, checkpoint, model_config


@dataclass(frozen=True)
class Network:
    """A run's network: `name` in `dydit.config` (None: only its file names it), shape, kind, engine and lambda.

    `target` is the FLOPs ratio that a DyDiT was trained for, as far as it is known.
    """

    name: str | None
    config: DiTConfig
    dynamic: bool
    engine: str
    target: float | None

    @property
    def latent(self) -> bool:
        """Whether its images need an autoencoder."""
        return self.config.in_channels == decoding.LATENT_CHANNELS

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the images."""
        side = self.config.input_size * (VAE_DOWNSAMPLING if self.latent else 1)
        return side, side, 3 if self.latent else self.config.in_channels

    def autoencoder(self, vae: str | None) -> str | None:
        """The autoencoder that decodes its images, by default the headline rows' own; None for a model of pixels.

        Raises:
            InputError: `vae` for a model of pixels, or a model of neither pixels nor latents.
        """
        if self.latent:
            return vae or decoding.DEFAULT_VAE
        decoding.open_decoder(self.config, vae)  # refuses what the run would refuse
        return None


def planned_network(options: GenerationOptions, source: Requirement, target: float | None) -> Network:
    """The network of a run.

    Args:
        options: of the run.
        source: its checkpoint, as it was looked for.
        target: lambda of a DyDiT, where neither its weights nor its name say it.

    Raises:
        InputError: a network that nothing names, or an engine that does not run it.
    """
    if target is not None:
        check_lambda(target)
    if options.model is not None:
        config, kind = model_config(options.model, options.resolution), named_class(options.model)
        known = float(options.checkpoint.rsplit("-", 1)[1]) if options.checkpoint in checkpoint.PUBLISHED else None
    elif not options.checkpoint.endswith(".safetensors"):
        raise InputError(f"{options.checkpoint}: such files do not name their model; give --model NAME")
    elif not source.present:
        raise InputError(f"{options.checkpoint}: no such file to read the network from; give --model NAME")
    else:
        model, found = checkpoint.load_model(options.checkpoint)
        record = found.record
        config, kind = model.config, type(model)
        known = json.loads(record.get("recipe", "{}")).get("target")
    engine = choose_engine(kind, options.engine)
    return Network(options.model, config, issubclass(kind, DyDiT), engine, target or known)
