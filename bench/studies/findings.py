"""The paper's claims, tried on the studies on digits and on clothes (DyDiT paper, Section 3; Tables 3 and 8).

The rule that decides each of them stands here with its reason, which comes from the paper and not from the numbers: a
claim of better quality is one of direction, a claim of kept quality has a margin on both sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bench.claims import (
    RELEASED_LAMBDAS,
    Activity,
    Finding,
    Rule,
    StatedClaim,
    published_fid_ratio,
    write_findings,
)
from bench.records import Results, clear_content_errors, environment_record, read_run, read_table, take_directory
from bench.studies.answers import questions
from bench.studies.catalogue import (
    ABLATION_LAMBDA,
    CONTROL,
    DIGITS,
    FASHION,
    FASHION_LAMBDAS,
    FASHION_SIZE,
    LAMBDAS,
    LARGEST,
    MIDDLE,
    SMALLEST,
    STATIC,
    Study,
)
from bench.studies.scores import STEPS
from bench.studies.spread import CONVERGED, METHOD, SDT, TDW, Runs, Spread, fid_name, means, rates_text, run_name
from dydit import InputError

JUDGED = (DIGITS, FASHION)
"""Studies with three seeds of every run, which findings need."""
EVIDENCE = "runs.csv"
BETTER = Rule.below(
    1.0, "the claim is a lower FID, by however little: other networks and data say nothing about how much"
)
SMALLER = Rule.below(1.0, "the claim is one of direction")
_LEAST_GAIN = 1 - max(published_fid_ratio(f"DyDiT-XL lambda={target}") for target in RELEASED_LAMBDAS)
KEPT = Rule.within(
    1.0, 0.05, f"less than the {_LEAST_GAIN:.1%} that the paper's DyDiT-XL gains on its DiT-XL: no change of that size"
)
_SEEDS_NOTE = "interval over seeds, Student's t on logarithms"


def on_target(target: float) -> Rule:
    """How near to lambda the FLOPs of a run must end."""
    return Rule.within(target, CONVERGED, "a tenth of the step from one printed lambda to the next")


def judge_study(study: Study, frame: pd.DataFrame, results: Results) -> list[Finding]:
    """Write what only the whole study can say, from the table of `scores.score_all`: means, questions and findings."""
    results.write_table(means(frame, fid_name(study)), "means")
    results.write_table(questions(study, frame), "questions")
    findings = study_findings(study, frame)
    write_findings(findings, results)
    return findings


def judge_again(directory: Path) -> list[Finding]:
    """Judge a finished run from its `runs.csv`, without training or sampling; `run.json` says what judged it.

    Raises:
        InputError: the directory has no `runs.csv` or `run.json`, or not every model of a study.
    """
    record = read_run(directory)
    with take_directory(directory):
        frame = read_table(directory, "runs")
        record.pop("judged", None)
        results = Results(directory, record)
        with clear_content_errors(directory / "runs.csv"):
            findings = judge_study(_study_of(frame, directory), frame, results)
        judging = environment_record()
        judged = {key: judging[key] for key in ("command", "started", "commit", "dirty")}
        results.write_record(record | {"judged": judged})
    return findings


def _study_of(frame: pd.DataFrame, directory: Path) -> Study:
    """The study that a table of scores is of: the one that has its stages."""
    there = set(frame["stage"])
    study = next((study for study in JUDGED if there <= {stage.name for stage in study.stages}), DIGITS)
    if missing := {stage.name for stage in study.stages} - there:
        raise InputError(
            f"{directory}/runs.csv: {len(missing)} models of the study {study.name} are missing, such as {min(missing)}"
        )
    return study


def study_findings(study: Study, frame: pd.DataFrame) -> list[Finding]:
    """A finding for each claim of the paper that a study can try, from the table of `scores.score_all`."""
    runs = Runs(frame)
    if study.name == FASHION.name:
        scope = _Scope("fashion", fid_name(study), FASHION_SIZE, "DyDiT", "")
        return [
            *_targets(runs, scope),
            *_against_start(runs, scope),
            *_quality_kept(runs, scope),
            *_ablated(runs, scope, _FASHION_ABLATIONS),
            _drifts_more(runs, scope),
            *_ordered(runs, scope),
        ]
    scope = _Scope("study", fid_name(study), LARGEST, "The largest DyDiT", ", largest size")
    return [
        *_targets(runs, scope),
        *_larger_loses_less(runs, scope),
        *_against_start(runs, scope),
        *_quality_kept(runs, scope),
        *_ablated(runs, scope, _ABLATIONS),
    ]


@dataclass(frozen=True)
class _Scope:
    """What findings of a study say of themselves: `prefix` of their ids, the FID, and the size they are about."""

    prefix: str
    fid: str
    size: str
    subject: str
    of_size: str


def _targets(runs: Runs, scope: _Scope) -> list[Finding]:
    frame = runs.frame[(runs.frame["run"] == "both") & (runs.frame["steps"] == STEPS)]
    return [_target(scope, frame[frame["lambda"] == target], target) for target in sorted(frame["lambda"].unique())]


def _target(scope: _Scope, group: pd.DataFrame, target: float) -> Finding:
    """Whether one more run would end at its lambda, as the FLOPs loss wants."""
    claim = StatedClaim(
        f"{scope.prefix}-ratio-{target}",
        "The FLOPs loss brings a training to its lambda",
        "DyDiT, Section 3.4",
        f"FLOPs ratio of the blocks at lambda {target}",
        on_target(target),
    )
    ratios = group["ratio"]
    spread = Spread.of_one_more(list(ratios))
    distance = (ratios - target).abs()
    worst = group.iloc[int(distance.to_numpy().argmax())]
    guided = group["sampled_ratio"]
    note = (
        f"interval in which the next training lies; sizes: {group['size'].nunique()}; over all 1000 timesteps; "
        f"{int((distance <= CONVERGED).sum())} of {len(group)} runs within {CONVERGED} of lambda, the "
        f"farthest {worst['stage']} at {worst['ratio']:.4f}; over the {STEPS} steps of a guided run {guided.min():.3f} "
        f"to {guided.max():.3f}"
    )
    rates = rates_text("DyDiT", *(float(group[column].mean()) for column in ("heads", "groups", "tokens", "ratio")))
    activity = Activity("FLOPs of the blocks skipped by DyDiT", 1 - spread.mean, rates)
    return claim.judge(spread.mean, spread.interval, activity, seeds=len(group), evidence=EVIDENCE, note=note)


def _larger_loses_less(runs: Runs, scope: _Scope) -> list[Finding]:
    """The largest size against the smallest, each over its own control."""
    rows = []
    for target in LAMBDAS:
        losses = {size: runs.against_control("both", target, size) for size in (SMALLEST, LARGEST)}
        quotient = [a / b for a, b in zip(losses[LARGEST], losses[SMALLEST], strict=True)]
        sides = "; ".join(f"size {size}: {Spread.of(values)} of its control" for size, values in losses.items())
        claim = StatedClaim(
            f"{scope.prefix}-larger-{target}",
            "Larger models lose less quality at the same lambda",
            "DyDiT, Table 8",
            f"loss of quality ({scope.fid} over that of the control), largest / smallest size, lambda {target}",
            BETTER,
        )
        rows.append(_judged(claim, quotient, _least_active(runs, target, (SMALLEST, LARGEST)), sides))
    return rows


def _least_active(runs: Runs, target: float, sizes: Sequence[str]) -> Activity:
    return min((runs.activity({"both": METHOD}, target, size) for size in sizes), key=lambda activity: activity.share)


def _against_start(runs: Runs, scope: _Scope) -> list[Finding]:
    """What Table 8 compares: the largest DyDiT with the static model that it was made from."""
    rows = []
    for target in (0.7, 0.5):
        claim = StatedClaim(
            f"{scope.prefix}-start-{target}",
            f"{scope.subject} at lambda {target} is better than the static model that it was made from",
            "DyDiT, Table 8",
            f"{scope.fid}{scope.of_size}: DyDiT lambda {target} / static model without further training",
            BETTER,
        )
        extra = Spread.of(runs.over(CONTROL, None, STATIC, None, scope.size))
        note = f"the static model trained as long without routers: {extra}"
        ratios = runs.over("both", target, STATIC, None, scope.size)
        rows.append(_judged(claim, ratios, runs.activity({"both": METHOD}, target, scope.size), note))
    return rows


def _quality_kept(runs: Runs, scope: _Scope) -> list[Finding]:
    """The same model against the static one that was trained as long: the comparison that isolates routing."""
    rows = []
    for target in (0.7, 0.5):
        claim = StatedClaim(
            f"{scope.prefix}-kept-{target}",
            f"{scope.subject} at lambda {target} keeps the quality of a static model trained as long",
            "DyDiT, Table 8",
            f"{scope.fid}{scope.of_size}: DyDiT lambda {target} / static model trained as long",
            KEPT,
        )
        ratios = runs.against_control("both", target, scope.size)
        loss = Spread.of(runs.against_control("both", target, scope.size, "loss"))
        rows.append(_judged(claim, ratios, runs.activity({"both": METHOD}, target, scope.size), f"loss {loss}"))
    return rows


@dataclass(frozen=True)
class _Ablation:
    """DyDiT over a network or training that lacks something, and the mechanisms that must act on either side."""

    run: str
    sizes: tuple[str, ...]
    claim: str
    needed: Mapping[str, Sequence[str]]
    paper_table: str = "DyDiT, Table 3"
    target: float = ABLATION_LAMBDA


_ABLATIONS = (
    _Ablation(
        "tdw-only",
        (MIDDLE, LARGEST),
        "Dynamic width with dynamic tokens beats dynamic width alone",
        {"both": (*TDW, *SDT), "tdw-only": TDW},
    ),
    _Ablation(
        "sdt-only",
        (MIDDLE, LARGEST),
        "Dynamic width with dynamic tokens beats dynamic tokens alone",
        {"both": (*TDW, *SDT), "sdt-only": SDT},
    ),
    _Ablation("random", (MIDDLE,), "Learned widths beat random ones of the same rates", {"both": TDW, "random": TDW}),
    _Ablation("layer-skip", (MIDDLE,), "Skipping tokens beats skipping layers", {"both": SDT, "layer-skip": SDT}),
    _Ablation(
        "no-ordering",
        (MIDDLE,),
        "Ordering heads and channels by importance helps",
        {"both": TDW, "no-ordering": TDW},
        "DyDiT, Section 3",
    ),
    _Ablation(
        "no-warmup",
        (MIDDLE,),
        "The loss of the complete model during warm-up helps",
        {"both": METHOD, "no-warmup": METHOD},
        "DyDiT, Section 3",
    ),
)


_ALONE = (FASHION_SIZE,)
_FASHION_ABLATIONS = (
    _Ablation(
        "tdw-only",
        _ALONE,
        "Dynamic width with dynamic tokens beats dynamic width alone",
        {"both": (*TDW, *SDT), "tdw-only": TDW},
    ),
    _Ablation(
        "sdt-only",
        _ALONE,
        "Dynamic width with dynamic tokens beats dynamic tokens alone",
        {"both": (*TDW, *SDT), "sdt-only": SDT},
        target=0.7,
    ),
    _Ablation(
        "random", _ALONE, "Learned routing beats random routing of the same rates", {"both": METHOD, "random": METHOD}
    ),
    _Ablation("layer-skip", _ALONE, "Skipping tokens beats skipping layers", {"both": SDT, "layer-skip": SDT}),
    _Ablation(
        "token-skip-attention",
        _ALONE,
        "Skipping tokens in the MLP alone beats skipping them in attention, too",
        {"both": SDT, "token-skip-attention": SDT},
        "DyDiT, Section 3",
    ),
)


def _ablated(runs: Runs, scope: _Scope, ablations: Sequence[_Ablation]) -> list[Finding]:
    rows = []
    for ablation in ablations:
        target = ablation.target
        for size in ablation.sizes:
            claim = StatedClaim(
                f"{scope.prefix}-{ablation.run}-{size}",
                ablation.claim,
                ablation.paper_table,
                f"{scope.fid}, size {size}, lambda {target}: DyDiT / {ablation.run}",
                BETTER,
            )
            loss = Spread.of(runs.over("both", target, ablation.run, target, size, "loss"))
            note = f"loss {loss}" + "".join(_missed(runs, run, target, size) for run in ("both", ablation.run))
            ratios = runs.over("both", target, ablation.run, target, size)
            rows.append(_judged(claim, ratios, runs.activity(ablation.needed, target, size), note))
    return rows


def _drifts_more(runs: Runs, scope: _Scope) -> Finding:
    """Whether fewer FLOPs move the images farther from those that the static model draws from the same noise."""
    near, far = max(FASHION_LAMBDAS), min(FASHION_LAMBDAS)
    claim = StatedClaim(
        f"{scope.prefix}-drift",
        "The lower lambda, the farther images drift from those of the static model",
        "DyDiT, Section 3.4",
        f"mean squared error against the static model's images of the same noise, lambda {near} / lambda {far}",
        SMALLER,
    )
    ratios = runs.over("both", near, "both", far, scope.size, "drift_mse")
    psnr = {target: Spread.of(runs.values("both", target, scope.size, "drift_psnr")) for target in (near, far)}
    control = Spread.of(runs.values(CONTROL, None, scope.size, "drift_psnr"))
    note = "median PSNR in dB: " + ", ".join(f"lambda {target} {spread}" for target, spread in psnr.items())
    activity = runs.activity({"both": METHOD}, near, scope.size)
    return _judged(claim, ratios, activity, f"{note}, the static model trained as long {control}")


@dataclass(frozen=True)
class _Order:
    """One share of decisions is smaller than another: columns of the scores, and the mechanisms that must act."""

    name: str
    claim: str
    paper: str
    quantity: str
    shares: str
    smaller: str
    larger: str
    needed: Sequence[str]


_ORDERS = (
    _Order(
        "objects", "Token routing follows the object: it spends its computation there and not on the background",
        "DyDiT, Section 3.3", "share of tokens that bypass the MLP", "object / background of the clean image",
        "objects", "background", SDT,
    ),
    # Where there is much noise, small networks predict as well as large ones.
    _Order(
        "width", "Dynamic width grows over a run, as the noise falls",
        "DyDiT, Section 1", "share of heads and channel groups open", "first / last quarter of the timesteps of a run",
        "early_width", "late_width", TDW,
    ),
)  # fmt: skip


def _ordered(runs: Runs, scope: _Scope) -> list[Finding]:
    """What the routers of DyDiT do less often in one place than in another."""
    rows = []
    for order in _ORDERS:
        for target in FASHION_LAMBDAS:
            claim = StatedClaim(
                f"{scope.prefix}-{order.name}-{target}",
                order.claim,
                order.paper,
                f"{order.quantity}, lambda {target}: {order.shares}",
                SMALLER,
            )
            one, other = (runs.values("both", target, scope.size, column) for column in (order.smaller, order.larger))
            ratios = [a / max(b, 1e-6) for a, b in zip(one, other, strict=True)]
            note = f"shares {np.mean(one):.3f} and {np.mean(other):.3f}, mean over seeds"
            rows.append(_judged(claim, ratios, runs.activity({"both": order.needed}, target, scope.size), note))
    return rows


def _missed(runs: Runs, run: str, target: float, size: str) -> str:
    """Words for runs that did not reach their FLOPs target, so that both sides do not cost the same."""
    ratio = float(np.mean(runs.values(run, target, size, "ratio")))
    return f"; {run_name(run)} missed lambda: FLOPs ratio {ratio:.3f}" if abs(ratio - target) > CONVERGED else ""


def _judged(claim: StatedClaim, ratios: Sequence[float], activity: Activity, note: str) -> Finding:
    spread = Spread.of(ratios)
    return claim.judge(
        spread.mean,
        spread.interval,
        activity,
        seeds=len(ratios),
        evidence=EVIDENCE,
        note=f"{_SEEDS_NOTE}; {note}",
    )
