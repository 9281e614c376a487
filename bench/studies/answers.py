"""Questions that the paper leaves open, answered on a study: one row per configuration, with words.

Those on the digits are the questions of its public reviews; those on clothes are about its two mechanisms and about
the routers' learning rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bench.claims import Activity
from bench.studies.catalogue import (
    ABLATION_LAMBDA,
    CONTROL,
    FASHION,
    FASHION_ROUTER_RATES,
    FASHION_SIZE,
    LARGEST,
    LARGEST_LAMBDA,
    MIDDLE,
    ROUTER_RATE,
    SCRATCH,
    SDT_LAMBDAS,
    SIZES,
    STATIC,
    TRAININGS,
    Study,
)
from bench.studies.scores import SAMPLER_STEPS, STEPS
from bench.studies.spread import CONVERGED, METHOD, SDT, TDW, Runs, Spread, fid_name, run_name


def questions(study: Study, frame: pd.DataFrame) -> pd.DataFrame:
    """One row per question and configuration: the quotients of FIDs and of losses with intervals, and words.

    `activity` is the share of decisions in which the mechanism of the question acted; where that is less than
    `LEAST_ACTIVITY`, the answer is that the question was not exercised.
    """
    runs = Runs(frame)
    if study.name == FASHION.name:
        rows = [*_router_rates(runs), *_controls(runs, (FASHION_SIZE,))]
    else:
        rows = [*_samplers(runs), *_scratch(runs), *_near_one(runs), *_depth(runs), *_sdt_alone(runs)]
        rows += [*_controls(runs, tuple(SIZES)), *_flops_weights(runs)]
    return pd.DataFrame(rows).rename(columns=lambda name: name.replace("FID", fid_name(study)))


@dataclass(frozen=True)
class Configuration:
    """A run at a lambda (None: without routers)."""

    run: str
    target: float | None

    def __str__(self) -> str:
        name = run_name(self.run)
        return name if self.target is None else f"{name} at lambda {self.target}"


CONTROLLED = Configuration(CONTROL, None)
DYDIT = Configuration("both", ABLATION_LAMBDA)


def _samplers(runs: Runs) -> list[dict[str, object]]:
    question = "Does routing learned on 1,000 steps fit other samplers?"
    activity = runs.activity({DYDIT.run: METHOD}, DYDIT.target)
    rows = []
    for steps in sorted({STEPS, *SAMPLER_STEPS}, reverse=True):
        ratio = np.mean(runs.values(DYDIT.run, DYDIT.target, MIDDLE, "sampled_ratio", steps))
        here = runs.against_control(DYDIT.run, DYDIT.target, steps=steps)
        many = runs.against_control(DYDIT.run, DYDIT.target, steps=max(SAMPLER_STEPS))
        worse = [a / b for a, b in zip(here, many, strict=True)]
        words = "the reference of this question"
        if steps != max(SAMPLER_STEPS):
            words = f"against {max(SAMPLER_STEPS)} steps, each relative to the control: FID {_change(Spread.of(worse))}"
        words += f"; FLOPs ratio {ratio:.3f}"
        configurations = f"size {MIDDLE}, {steps} steps: {DYDIT} / {CONTROLLED}"
        rows.append(_answer(question, configurations, Spread.of(here), None, activity, words))
    return rows


def _scratch(runs: Runs) -> list[dict[str, object]]:
    scratch = Configuration(SCRATCH, ABLATION_LAMBDA)
    ending = "; as many steps as the static model and its fine-tuning together"
    return [_compared(runs, "Does DyDiT train from scratch?", scratch, DYDIT, {SCRATCH: METHOD}, ending)]


def _near_one(runs: Runs) -> list[dict[str, object]]:
    question = "What do lambda 0.8 and 0.9 give on the largest size?"
    return [
        _compared(runs, question, Configuration("both", target), CONTROLLED, {"both": METHOD}, size=LARGEST)
        for target in (0.9, LARGEST_LAMBDA)
    ]


def _depth(runs: Runs) -> list[dict[str, object]]:
    """Layers are skipped by gates of attention, which stand as heads, and of MLPs, which stand as tokens."""
    question, skipping = "Layer skipping without TDW?", Configuration("layer-skip-only", ABLATION_LAMBDA)
    gates = ("heads", *SDT)
    return [
        _compared(
            runs, question, skipping, Configuration(run, ABLATION_LAMBDA), {"layer-skip-only": gates, run: columns}
        )
        for run, columns in (("both", METHOD), ("layer-skip", SDT), ("tdw-only", TDW))
    ]


def _sdt_alone(runs: Runs) -> list[dict[str, object]]:
    question = "Where does SDT alone lose its quality?"
    rows = []
    for target in SDT_LAMBDAS:
        ratios = runs.values("sdt-only", target, MIDDLE, "ratio")
        reached = max(abs(ratio - target) for ratio in ratios) <= CONVERGED
        ending = "" if reached else "; lambda was not reached"
        rows.append(_compared(runs, question, Configuration("sdt-only", target), CONTROLLED, {"sdt-only": SDT}, ending))
    return rows


def _controls(runs: Runs, sizes: Sequence[str]) -> list[dict[str, object]]:
    static, size = Configuration(STATIC, None), MIDDLE if MIDDLE in sizes else sizes[0]
    rows = [_compared(runs, "Is the gain the extra training's?", CONTROLLED, static, {}, size=each) for each in sizes]
    soft_gated = Configuration("soft-gated", 1.0)
    question = "Do the routers' parameters help by themselves?"
    rows.append(_compared(runs, question, soft_gated, CONTROLLED, {}, size=size))
    skipping = Configuration("token-skip-attention", ABLATION_LAMBDA)
    needed = {skipping.run: SDT}
    rows.append(_compared(runs, "Does attention need every token?", skipping, DYDIT, needed, size=size))
    return rows


def _router_rates(runs: Runs) -> list[dict[str, object]]:
    """Slower routers against those of the study, with what the token routers of each side did."""
    rows = []
    for factor in FASHION_ROUTER_RATES:
        slower = Configuration(f"{ROUTER_RATE}{factor:g}", ABLATION_LAMBDA)
        sides = []
        for run in (slower.run, DYDIT.run):
            tokens, between = (
                np.mean(runs.values(run, ABLATION_LAMBDA, FASHION_SIZE, column))
                for column in ("tokens", "between_images")
            )
            sides.append(f"tokens open {tokens:.4f}, deviation between images {between:.3f}")
        ending = f"; {sides[0]}; in DyDiT {sides[1]}"
        question = "How fast must routers learn in a short training?"
        rows.append(_compared(runs, question, slower, DYDIT, {slower.run: METHOD}, ending, FASHION_SIZE))
    return rows


def _flops_weights(runs: Runs) -> list[dict[str, object]]:
    rows = []
    question = "Does the weight of the FLOPs loss matter (2 in the release)?"
    for run in (run for run in TRAININGS if run.startswith("flops-weight")):
        rows.append(_compared(runs, question, Configuration(run, ABLATION_LAMBDA), DYDIT, {run: METHOD}))
    return rows


def _compared(
    runs: Runs,
    question: str,
    one: Configuration,
    other: Configuration,
    needed: Mapping[str, Sequence[str]],
    ending: str = "",
    size: str = MIDDLE,
) -> dict[str, object]:
    """One row; `needed` names the mechanisms that the question is about (empty: it is about none)."""
    pair = (one.run, one.target, other.run, other.target, size)
    spread, loss = (Spread.of(runs.over(*pair, column)) for column in ("FID", "loss"))
    activity = runs.activity(needed, one.target, size) if needed else None
    words = f"against {other}: FID {_change(spread)}; loss {_change(loss)}"
    if needed:
        words += f"; FLOPs ratio {np.mean(runs.values(one.run, one.target, size, 'ratio')):.3f}"
    return _answer(question, f"size {size}: {one} / {other}", spread, loss, activity, f"{words}{ending}")


def _change(spread: Spread) -> str:
    """What an interval of a ratio says in words; one that contains 1 decides nothing."""
    if not spread.separated:
        return f"undecided, {spread.low - 1:+.1%} to {spread.high - 1:+.1%}"
    return f"{abs(spread.mean - 1):.1%} {'higher' if spread.mean > 1 else 'lower'}"


def _answer(
    question: str, configurations: str, spread: Spread, loss: Spread | None, activity: Activity | None, words: str
) -> dict[str, object]:
    row: dict[str, object] = {"question": question, "configurations": configurations}
    for name, value in (("FID ratio", spread), ("loss ratio", loss)):
        row |= {name: value and value.mean, f"{name} low": value and value.low, f"{name} high": value and value.high}
    if activity is not None and not activity.exercised:
        words = f"not exercised ({activity})"
    return row | {"activity": activity and activity.share, "answer": words}
