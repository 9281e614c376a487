"""What people type: every command, and every option that it takes; a name goes or comes on purpose alone."""

from __future__ import annotations

import re

import pytest

from bench import cli
from bench.commands import COMMANDS

OPTIONS = {
    "reproduce": "--out --tier --checkpoints --claim --data-root --strict",
    "plan": """
        --out --checkpoint --model --resolution --weights --sampler --steps --scale --seed --classes --unit --device
        --threads --vae --images --engine --dtype --tf32 --png --samples --lambda --gpus --rate --reference
        --extractor --extractor-weights --weights-sha256 --data-root --strict
    """,
    "flops": "--out --models --lambdas --checkpoint --model --resolution --weights --images --steps --strict",
    "latency": """
        --out --models --lambdas --batch --profiles --device --dtype --tf32 --resolution --threads --seconds
        --run-steps --graphs --alternatives --profile --growth --seed --checkpoint --steps --model --weights
    """,
    "generate": """
        --out --checkpoint --model --resolution --weights --sampler --steps --scale --seed --classes --unit --device
        --threads --vae --images --engine --dtype --tf32 --png --method
    """,
    "quality": """
        --out --samples --reference --extractor --weights --weights-sha256 --metrics --data-root --batch
        --resamples --distances --paired --preset --strict
    """,
    "stats build": """
        NAME --name --split --resolution --extractor --weights --weights-sha256 --part --streaming --out
        --data-root --root
    """,
    "stats merge": "NAME FILE --out --data-root --root",
    "stats verify": "NAME --data-root --root",
    "stats list": "--data-root --root",
    "latents": "--out --data --split --data-root --resolution --vae --unit --threads --device",
    "finetune": """
        --out --from --data --data-root --recipe --steps --batch --micro-batch --lambda --seed --learning-rate
        --router-learning-rate --ema-decay --warmup --target-hold --target-reached --gradient-limit --flip
        --ablation --new-classes --rates --model
        --resolution --weights --precision --tf32 --checkpointing --shard --device --threads --save-every
        --tensorboard --keep
    """,
    "compare-methods": """
        --device --dtype --out --methods --network --resolution --threads --model --steps --images --seeds --batch
        --seconds --models --shorten --processes
    """,
    "small-scale": "--out --plan --dataset --data-root --device --models --stages --shorten --judge --processes",
    "routing": """
        --out --checkpoint --model --resolution --weights --sampler --steps --scale --seed --classes --unit --device
        --threads --vae --images
    """,
    "inspect": "FILE --model --resolution --weights",
    "compare": "FIRST SECOND --fail-on-regression --out",
    "history": "--out --machine",
    "report": "--results --speed --study --clothes --check --page",
}
"""Options by command; arguments without dashes as `--help` calls them."""


def test_every_command_is_listed() -> None:
    assert {name.split()[0] for name in OPTIONS} == set(COMMANDS)


@pytest.mark.parametrize("command", OPTIONS)
def test_a_command_takes_these_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main([*command.split(), "--help"])
    assert exit_.value.code == 0
    shown = re.findall(r"^  (--[\w-]+|[A-Z]+)", capsys.readouterr().out, flags=re.MULTILINE)
    assert sorted(shown) == sorted(OPTIONS[command].split())
