"""Comparing configurations of the study on digits over their seeds.

Two of them are compared by the quotient of their FIDs, seed by seed: both have the same starting weights, and image k
of one seed has the same label and noise in both. The geometric mean over seeds stands with its 95 % interval (Student's
t on the logarithms); a difference counts where the interval leaves 1 out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd

from bench.claims import Activity
from bench.quality.features import extractors
from bench.studies.catalogue import CONTROL, DIGITS, MIDDLE, Study
from bench.studies.samples import GUIDANCE_SCALE
from bench.studies.scores import STEPS

CONVERGED = 0.01
"""How far the achieved FLOPs ratio may lie from lambda: a tenth of the step from one printed lambda to the next."""
MECHANISMS = {
    "heads": "heads closed",
    "groups": "channel groups closed",
    "tokens": "tokens skipped",
    "ratio": "FLOPs of the blocks skipped",
}
"""Column of open shares -> what the rest of it is called; the last stands for the method as a whole."""
TDW, SDT, METHOD = ("heads", "groups"), ("tokens",), ("ratio",)
"""Columns in which dynamic width, dynamic tokens, and the method as a whole act."""


def fid_name(study: Study) -> str:
    """What the FID of a study is called, such as `FID[digits-cnn]`."""
    return extractors.extractor(study.extractor).metric("FID")


FID = fid_name(DIGITS)


@dataclass(frozen=True)
class Spread:
    """A positive quantity over seeds: geometric mean and 95 % interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least two values (ValueError with fewer)."""
        from scipy import stats

        if len(values) < 2:
            raise ValueError(f"{len(values)} values have no spread")
        logs = np.log(np.asarray(values, dtype=np.float64))
        half = stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs))
        return cls(*(math.exp(logs.mean() + side) for side in (0.0, -half, half)))

    @classmethod
    def of_one_more(cls, values: Sequence[float]) -> Spread:
        """Mean of at least two values, and the interval in which one more lies with 95 % probability (Student's t)."""
        from scipy import stats

        numbers = np.asarray(values, dtype=np.float64)
        half = stats.t.ppf(0.975, len(numbers) - 1) * numbers.std(ddof=1) * math.sqrt(1 + 1 / len(numbers))
        return cls(*(float(numbers.mean() + side) for side in (0.0, -half, half)))

    @property
    def interval(self) -> tuple[float, float]:
        """Both ends of the interval."""
        return self.low, self.high

    @property
    def separated(self) -> bool:
        """Whether the interval leaves 1 out."""
        return not self.low <= 1 <= self.high

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Runs:
    """The scored runs of the study, the table of `bench.studies.scores.score_all`."""

    frame: pd.DataFrame

    def values(self, run: str, target: float | None, size: str, column: str, steps: int = STEPS) -> list[float]:
        """A column of one configuration, in the order of the seeds (KeyError where it was not scored)."""
        frame = self.frame
        wanted = frame["lambda"].isna() if target is None else frame["lambda"] == target
        chosen = frame[(frame["run"] == run) & wanted & (frame["size"] == size) & (frame["steps"] == steps)]
        if chosen.empty:
            raise KeyError((run, target, size, steps))
        return [float(value) for value in chosen.sort_values("seed")[column]]

    def over(
        self,
        run: str,
        target: float | None,
        baseline: str,
        baseline_target: float | None,
        size: str = MIDDLE,
        column: str = "FID",
        steps: int = STEPS,
    ) -> list[float]:
        """Quotients of two configurations, seed by seed."""
        above = self.values(run, target, size, column, steps)
        below = self.values(baseline, baseline_target, size, column, steps)
        return [a / b for a, b in zip(above, below, strict=True)]

    def against_control(
        self, run: str, target: float | None, size: str = MIDDLE, column: str = "FID", steps: int = STEPS
    ) -> list[float]:
        """Quotients over the static model of that size that was trained on as long."""
        return self.over(run, target, CONTROL, None, size, column, steps)

    def activity(
        self, needed: Mapping[str, Sequence[str]], target: float | None, size: str = MIDDLE, steps: int = STEPS
    ) -> Activity:
        """How often mechanisms acted in some runs of one lambda, over all seeds.

        Args:
            needed: run -> columns of `MECHANISMS` that must have acted in it.
            target: lambda of these runs.
            size: of their network.
            steps: of their sampling.

        Returns:
            The activity of the one that acted least, and the open shares of all of them.
        """
        shares = {
            f"{MECHANISMS[column]} by {run_name(run)}": 1
            - float(np.mean(self.values(run, target, size, column, steps)))
            for run, columns in needed.items()
            for column in columns
        }
        least = min(shares, key=shares.__getitem__)
        return Activity(least, max(shares[least], 0.0), "; ".join(self._rates(run, target, size) for run in needed))

    def _rates(self, run: str, target: float | None, size: str) -> str:
        return rates_text(
            run_name(run), *(float(np.mean(self.values(run, target, size, column))) for column in MECHANISMS)
        )


def run_name(run: str) -> str:
    """What people call a run: `both`, which has both mechanisms, is DyDiT."""
    return "DyDiT" if run == "both" else run


def rates_text(name: str, heads: float, groups: float, tokens: float, ratio: float) -> str:
    """Open shares of a model in words."""
    return f"{name}: open heads {heads:.3f}, channel groups {groups:.3f}, tokens {tokens:.4f}; FLOPs ratio {ratio:.3f}"


def means(frame: pd.DataFrame, fid: str = FID) -> pd.DataFrame:
    """One row per configuration and number of sampling steps: means, deviations, quotients over the control.

    `fid` is what the FID is called; `converged` counts the seeds whose achieved ratio lies within `CONVERGED` of
    lambda.
    """
    runs, rows = Runs(frame), []
    for key, group in frame.groupby(["size", "run", "lambda", "steps"], dropna=False, sort=False):
        size, run, lambda_, steps = cast(tuple[Any, ...], key)
        target = None if pd.isna(lambda_) else float(lambda_)
        row: dict[str, Any] = {"size": size, "run": run, "lambda": target, "steps": steps, "seeds": len(group)}
        if target is not None:
            row["converged"] = int(((group["ratio"] - target).abs() <= CONVERGED).sum())
        for column in ("ratio", "sampled_ratio", "heads", "groups", "tokens", "loss", "FID"):
            row[column] = group[column].mean()
            if column in ("ratio", "loss", "FID") and len(group) > 1:
                row[f"{column}_std"] = group[column].std(ddof=1)
        if len(group) > 1 and run != CONTROL:
            for column in ("FID", "loss"):
                spread = Spread.of(runs.against_control(run, target, size, column, steps))
                name = f"{column}_over_control"
                row |= {name: spread.mean, f"{name}_low": spread.low, f"{name}_high": spread.high}
        rows.append(row)
    table = pd.DataFrame(rows).rename(columns={"FID": fid, "FID_std": f"{fid}_std"})
    return table.assign(guidance_scale=GUIDANCE_SCALE)
