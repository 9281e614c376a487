"""Questions that strangers ask, answered from the committed runs in a sentence or two each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from bench.claims import find_published, load_published
from bench.report.runs import Run, with_table

_PAPER, _TABLE = "dydit_iclr2025", "Table 8"
MODEL, TARGET = "DiT-XL/2", 0.5
"""The network that the paper's abstract speaks of."""
_ROW = f"DyDiT-XL lambda={TARGET}"


@dataclass(frozen=True)
class Answer:
    """A question, its answer, and the command that gives the reader's own."""

    question: str
    answer: str
    command: str


def answers(runs: Sequence[Run]) -> list[Answer]:
    """All questions that the runs can answer."""
    return [answer for answer in (_speed(runs), _convention(runs)) if answer is not None]


def _speed(runs: Sequence[Run]) -> Answer | None:
    """Is the published speed-up real on another machine?"""
    published = find_published(_PAPER, table=_TABLE, row=_ROW, metric="acceleration").printed
    measured = speed_rows(runs)
    here = measured[measured["row"] == _ROW]
    if here.empty:
        return None
    here = here.sort_values("started", kind="stable").groupby(["machine", "dtype"]).tail(1)  # the last of each machine
    told = "; ".join(
        f"{row.measured:.2f} times as fast (95 % interval {row.low:.2f} to {row.high:.2f}) on {row.machine}, "
        f"{row.dtype}, batch {row.batch}"
        for row in here.itertuples()
    )
    answer = (
        f"Published: {published} on a V100. Measured with an engine that skips what the masks close: {told}. "
        "The masks are drawn to meet the printed FLOPs, and the paper's own GPU was not at hand, so that no verdict is "
        "given."
    )
    if masked := _masked(runs):
        answer += f" As the authors' release runs it, masks multiply and nothing is skipped: {masked}."
    command = f"python -m bench latency --models {MODEL} --lambdas {TARGET} --device cuda"
    return Answer(f"Is {published}x real on my machine?", answer, command)


def _masked(runs: Sequence[Run]) -> str:
    told = []
    for run, table in with_table(runs, "latency", "engine", "over_plain", "over_plain_low", "model", "lambda", "dtype"):
        rows = table[(table["engine"] == "masked") & (table["model"] == MODEL) & (table["lambda"] == TARGET)]
        told += [
            f"{row.over_plain:.2f} times as fast as the plain static model "
            f"({row.over_plain_low:.2f} to {row.over_plain_high:.2f}) on {run.machine}, {row.dtype}"
            for row in rows.itertuples()
        ]
    return "; ".join(told)


def _convention(runs: Sequence[Run]) -> Answer | None:
    """Which of the conventions of counting do the paper's FLOPs follow?"""
    dynamic = find_published(_PAPER, table=_TABLE, row=_ROW, metric="FLOPs (MACs convention)")
    static = find_published(_PAPER, table=_TABLE, row="DiT-XL static lambda=1.0", metric="FLOPs (MACs convention)")
    assert dynamic.value is not None and static.value is not None, "both are transcribed"
    columns = ("model", "resolution", "what", "counter", "convention", "gmacs")
    for _, table in with_table(runs, "flops", *columns):
        rows = table[(table["model"] == MODEL) & (table["resolution"] == 256) & (table["counter"] == "closed form")]
        totals = rows.drop_duplicates("convention").set_index("convention")["gmacs"]
        meets = [str(name) for name, total in totals.items() if f"{total:.{static.decimals}f}" == static.printed]
        if len(meets) != 1:
            continue
        told = ", ".join(f"{name} {total:.2f} G" for name, total in totals.items())
        answer = (
            f"{meets[0]}: one multiply-add counts as one, for one image and one network pass, attention "
            f"included. {dynamic.printed} G belongs to a static total of {static.printed} G, which no other convention "
            f"meets ({told}); the ratio is {dynamic.value / static.value:.3f}. Multiply by 2 for FLOPs in which a "
            "multiply-add counts as two, and by 2 again for both branches of guidance."
        )
        return Answer(
            f"Which FLOPs convention is {dynamic.printed} G?", answer, f"python -m bench flops --models {MODEL}"
        )
    return None


def speed_rows(runs: Sequence[Run]) -> pd.DataFrame:
    """Every measured speed-up at a lambda that Table 8 prints, by row there, machine, run, start, dtype and batch."""
    printed = {
        value.row for value in load_published(_PAPER) if value.table == _TABLE and value.metric == "acceleration"
    }
    rows = []
    needed = ("engine", "model", "lambda", "dtype", "batch", "speedup", "speedup_low", "speedup_high")
    for run, table in with_table(runs, "latency", *needed, "profile", "resolution"):
        for row in table[(table["engine"] == "realised") & (table["resolution"] == 256)].to_dict("records"):
            name = f"Dy{str(row['model']).removesuffix('/2')} lambda={row['lambda']}"
            if name in printed and row["profile"] == "even":
                interval = (row["speedup"], row["speedup_low"], row["speedup_high"])
                started = str(run.record.get("started", ""))
                rows.append((name, run.machine, run.place, started, row["dtype"], row["batch"], *interval))
    return pd.DataFrame(rows, columns=["row", "machine", "run", "started", "dtype", "batch", "measured", "low", "high"])
