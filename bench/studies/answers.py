"""Questions of the paper's public reviews, answered on the study on digits: one row per configuration, with words."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bench.studies.catalogue import (
    ABLATION_LAMBDA,
    CONTROL,
    LARGEST,
    LARGEST_LAMBDA,
    MIDDLE,
    SCRATCH,
    SDT_LAMBDAS,
    SIZES,
    STATIC,
    TRAININGS,
)
from bench.studies.scores import SAMPLER_STEPS, STEPS
from bench.studies.spread import CONVERGED, FID, Runs, Spread


def questions(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per question and configuration: the quotients of FIDs and of losses with intervals, and words."""
    runs = Runs(frame)
    rows = [*_samplers(runs), *_scratch(runs), *_near_one(runs), *_depth(runs), *_sdt_alone(runs), *_controls(runs)]
    return pd.DataFrame(rows)


def _samplers(runs: Runs) -> list[dict[str, object]]:
    target, question = ABLATION_LAMBDA, "Does routing learned on 1,000 steps fit other samplers?"
    rows = []
    for steps in sorted({STEPS, *SAMPLER_STEPS}, reverse=True):
        ratio = np.mean(runs.values("both", target, MIDDLE, "sampled_ratio", steps))
        here = runs.against_control("both", target, steps=steps)
        many = runs.against_control("both", target, steps=max(SAMPLER_STEPS))
        worse = [a / b for a, b in zip(here, many, strict=True)]
        spread = Spread.of(worse)
        words = "the reference of this question"
        if steps != max(SAMPLER_STEPS):
            words = f"against {max(SAMPLER_STEPS)} steps, each relative to the control: FID {_change(spread)}"
        words += f"; FLOPs ratio {ratio:.3f}"
        rows.append(_answer(question, f"both-{target} / control, {steps} steps", Spread.of(here), None, words))
    return rows


def _scratch(runs: Runs) -> list[dict[str, object]]:
    target = ABLATION_LAMBDA
    ratio = np.mean(runs.values(SCRATCH, target, MIDDLE, "ratio"))
    return [
        _compared(
            runs,
            "Does DyDiT train from scratch?",
            (SCRATCH, target),
            ("both", target),
            f"; FLOPs ratio {ratio:.3f}, as many steps as the static model and its fine-tuning together",
        )
    ]


def _near_one(runs: Runs) -> list[dict[str, object]]:
    large = LARGEST
    return [
        _compared(
            runs,
            "What do lambda 0.8 and 0.9 give on the largest size?",
            ("both", target),
            (CONTROL, None),
            f"; FLOPs ratio {np.mean(runs.values('both', target, large, 'ratio')):.3f}",
            large,
        )
        for target in (0.9, LARGEST_LAMBDA)
    ]


def _depth(runs: Runs) -> list[dict[str, object]]:
    target, question = ABLATION_LAMBDA, "Layer skipping without TDW?"
    return [
        _compared(runs, question, ("layer-skip-only", target), (baseline, target))
        for baseline in ("both", "layer-skip", "tdw-only")
    ]


def _sdt_alone(runs: Runs) -> list[dict[str, object]]:
    rows = []
    for target in SDT_LAMBDAS:
        ratios = runs.values("sdt-only", target, MIDDLE, "ratio")
        reached = max(abs(ratio - target) for ratio in ratios) <= CONVERGED
        ending = f"; FLOPs ratio {np.mean(ratios):.3f}{'' if reached else ', not converged'}"
        question, control = "Where does SDT alone lose its quality?", (CONTROL, None)
        rows.append(_compared(runs, question, ("sdt-only", target), control, ending))
    return rows


def _controls(runs: Runs) -> list[dict[str, object]]:
    target = ABLATION_LAMBDA
    rows = [
        _compared(runs, "Is the gain the extra training's?", (CONTROL, None), (STATIC, None), size=size)
        for size in SIZES
    ]
    control = (CONTROL, None)
    rows.append(_compared(runs, "Do the routers' parameters help by themselves?", ("soft-gated", 1.0), control))
    question = "Does attention need every token?"
    rows.append(_compared(runs, question, ("token-skip-attention", target), ("both", target)))
    for run in (run for run in TRAININGS if run.startswith("flops-weight")):
        ratio = np.mean(runs.values(run, target, MIDDLE, "ratio"))
        question = "Does the weight of the FLOPs loss matter (2 in the release)?"
        rows.append(_compared(runs, question, (run, target), ("both", target), f"; FLOPs ratio {ratio:.3f}"))
    return rows


Configuration = tuple[str, float | None]


def _compared(
    runs: Runs,
    question: str,
    one: Configuration,
    other: Configuration,
    ending: str = "",
    size: str = MIDDLE,
) -> dict[str, object]:
    spread, loss = (Spread.of(runs.over(*one, *other, size, column)) for column in ("FID", "loss"))
    names = " / ".join(run if target is None else f"{run}-{target}" for run, target in (one, other))
    baseline = other[0] if other[1] is None else f"{other[0]} at lambda {other[1]}"
    words = f"against {baseline}: FID {_change(spread)}, loss {_change(loss)}{ending}"
    return _answer(question, f"size {size}: {names}", spread, loss, words)


def _change(spread: Spread) -> str:
    if not spread.separated:
        return "no different beyond the seeds' spread"
    return f"{abs(spread.mean - 1):.1%} {'higher' if spread.mean > 1 else 'lower'}"


def _answer(question: str, configurations: str, spread: Spread, loss: Spread | None, words: str) -> dict[str, object]:
    row: dict[str, object] = {"question": question, "configurations": configurations}
    for name, value in ((f"{FID} ratio", spread), ("loss ratio", loss)):
        row |= {name: value and value.mean, f"{name} low": value and value.low, f"{name} high": value and value.high}
    return row | {"answer": words}
