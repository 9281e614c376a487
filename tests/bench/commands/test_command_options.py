"""What people type: every command, and every option that it takes; a name goes or comes on purpose alone."""

from __future__ import annotations

import importlib
import re
import typing
from collections.abc import Iterator

import pytest

from bench import cli
from bench.commands import COMMANDS
from bench.options import Options, declarations

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
    "report": "--results --speed --speed-bf16 --study --clothes --check --page",
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


def kinds() -> Iterator[type[Options]]:
    """The dataclass of every command and of every action of one."""
    for name, command in COMMANDS.items():
        module = importlib.import_module(f"bench.commands.{command.folder}.{name.replace('-', '_')}")
        yield from (
            (action.options for action in module.ACTIONS.values()) if hasattr(module, "ACTIONS") else [module.OPTIONS]
        )


def test_every_number_has_limits() -> None:
    for kind in kinds():
        assert issubclass(kind, Options), kind
        hints = typing.get_type_hints(kind)
        numbers = {
            field.name for field, _ in declarations(kind) if re.search(r"\b(int|float)\b", str(hints[field.name]))
        }
        assert {field.name for field, declared in declarations(kind) if declared.within} == numbers, kind


@pytest.mark.parametrize(
    "line",
    [
        "generate --checkpoint x --images 1000000000000000",
        "generate --checkpoint x --images 1 --threads 1000000",
        "generate --checkpoint x --images 1 --unit 1000000000000",
        "flops --weights x",
        "flops --resolution -8",
        "latency --weights x",
        "latency --seconds nan",
        "plan --checkpoint x --images 1 --rate inf",
        "small-scale --processes 1000000",
        "finetune --from x --data digits --ema-decay nan",
        "routing --checkpoint x --seed -1",
    ],
)
def test_numbers_beyond_all_measure_are_refused_at_once(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(line.split())
    name, value = line.split()[-2:]
    assert exit_.value.code == 2 and capsys.readouterr().err.startswith(f"error: {name} {value}: give ")
