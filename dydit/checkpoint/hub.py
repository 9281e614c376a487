"""Trained networks as folders and hub repositories, through huggingface_hub's own mixin.

A folder holds `model.safetensors` as `writing.write` makes it, `config.json` and the model card `README.md`.
`python -m bench finetune` writes such a folder, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelHubMixin, hf_hub_download
from torch import nn

from dydit import checkpoint
from dydit.checkpoint import model_card
from dydit.checkpoint.network import unwrapped
from dydit.errors import InputError, first_line

WEIGHTS = "model.safetensors"


class Pretrained(ModelHubMixin):
    """A network, of any kind that `network.load_model` knows, with the text record of its weights.

    `save_pretrained(directory)`, `Pretrained.from_pretrained(directory or repository).model` and `push_to_hub` come
    from the mixin. Unlike its variant for PyTorch modules, loading is strict and finds the network's class by itself.
    """

    def __init__(self, model: nn.Module, record: Mapping[str, str] | None = None) -> None:
        self.model, self.record = unwrapped(model), dict(record or {})
        self._hub_mixin_config = {"kind": type(self.model).__name__, **self.model.config.kwargs()}

    def generate_model_card(self, *_: Any, **__: Any) -> ModelCard:
        """The card that the mixin writes into a folder without one."""
        return ModelCard(model_card.card_text(self.model, self.record))

    def _save_pretrained(self, save_directory: Path) -> None:
        checkpoint.write(save_directory / WEIGHTS, self.model, self.record)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> Pretrained:
        """Load from a folder or a hub repository; called by the mixin's `from_pretrained`.

        Raises:
            InputError: there are no weights, or none that fit a network of this project.
        """
        path = Path(model_id) / WEIGHTS
        if not Path(model_id).is_dir():
            wanted = ("revision", "cache_dir", "force_download", "local_files_only", "token")
            fetch = {name: options[name] for name in wanted if name in options}
            try:
                path = Path(hf_hub_download(model_id, WEIGHTS, **fetch))
            except Exception as error:  # the hub raises many kinds; a user needs one line
                raise InputError(f"{model_id}: no folder, and no {WEIGHTS} on the hub ({first_line(error)})") from None
        model, found = checkpoint.load_model(path)
        return cls(model, found.record)
