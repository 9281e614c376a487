from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest
import torch

from bench.claims import Subject, claim_subject, find_published
from bench.flops.checkpoint_macs import measure_checkpoint
from bench.flops.counters import torch_count
from bench.flops.counts import (
    MODELS,
    at_printed_resolutions,
    count_network,
    count_networks,
    executed_macs,
)
from bench.flops.measure import count_and_judge
from bench.flops.remarks import flops_remarks
from bench.flops.tables import COLUMNS, flops_table, operator_table, parameters_table
from bench.flops.verdicts import judge_flops, published_macs
from bench.records import Results
from bench.records.tables import read_table
from dydit import DiT, DiTConfig, DyDiT, InputError, checkpoint, model_config
from dydit.flops import (
    CONVENTIONS,
    DIT_PAPER,
    DYDIT_PAPER,
    FUSED_BLIND,
    MATMUL,
    flops_ratio,
    implied_ratio,
    macs,
    target_macs,
)

TINY = DiTConfig(
    input_size=8, patch_size=2, in_channels=4, hidden_size=32, depth=2, num_heads=4, num_classes=10
)  # fmt: skip
LIMIT_GIB, LIMIT_SECONDS = 2.0, 30.0


@pytest.fixture(scope="module")
def measured():
    return count_networks()


@pytest.fixture(scope="module")
def rows(measured):
    return {row.claim_id: row for row in judge_flops(measured)}


def randomised(model):
    """Random weights everywhere, so that routers open and close and images differ."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3, generator=generator)
    return model


def test_the_counters_agree_with_the_closed_form_exactly(measured):
    assert [(network.model, network.resolution) for network in measured] == list(MODELS)
    for network in measured:
        assert network.agreeing(MATMUL) == ("closed form", "torch"), network.model
        assert network.agreeing(DYDIT_PAPER) == ("closed form", "fvcore"), network.model
        assert network.agreeing(FUSED_BLIND) == ("closed form", "fvcore unmodified"), network.model


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
def test_counting_xl_at_512_needs_little_memory_and_time():
    # VmHWM, not getrusage: its maximum may be inherited from the parent, which is large here.
    script = (
        "import json, re, time; start = time.perf_counter(); from bench.flops.counts import count_network; "
        "m = count_network('DiT-XL/2', 512); "
        "peak = re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]; "
        "print(json.dumps([m.fvcore.total, int(peak) / 2**20, time.perf_counter() - start]))"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    total, gib, seconds = json.loads(output.stdout)
    assert total == macs(model_config("DiT-XL/2", 512)).total(DYDIT_PAPER)
    assert gib < LIMIT_GIB
    assert seconds < LIMIT_SECONDS
    assert output.stderr == ""


@pytest.mark.parametrize(
    ("model", "dydit_paper", "dit_paper"), [("S/2", 6.07, 6.06), ("B/2", 23.02, 23.01), ("XL/2", 118.69, 118.64)]
)
def test_static_totals_as_printed(model, dydit_paper, dit_paper):
    closed = macs(model_config(f"DiT-{model}"))
    assert round(closed.total(DYDIT_PAPER) / 1e9, 2) == dydit_paper
    assert round(closed.total(DIT_PAPER) / 1e9, 2) == dit_paper


def test_claims_of_the_static_rows(rows):
    deviating = {claim for claim, row in rows.items() if row.verdict == "deviates"}
    assert deviating == {"dit-table4-dit-b-4-gflops", "dydit-table1-dit-xl-flops"}
    for claim in deviating:
        assert "cut off" in rows[claim].note
    reproduced = [row for row in rows.values() if row.verdict == "reproduced"]
    assert sum(row.unit == "G" for row in reproduced) == 15
    assert sum(row.unit == "M" for row in reproduced) == 18
    row = rows["dydit-table8-dit-xl-static-lambda-1.0-flops"]
    assert row.evidence == "flops.csv: DiT-XL/2 @256, closed form = fvcore, convention dydit-paper"


def test_claims_that_cannot_be_judged_say_why(rows):
    dynamic = rows["dydit-table8-dydit-xl-lambda-0.5-flops"]
    assert (dynamic.verdict, dynamic.needs) == ("not run", "published weights; a GPU")
    assert "bench flops --checkpoint dydit-xl-2-lambda-0.5" in dynamic.note
    assert "no network that is built here" in rows["dit-table6-adm-gflops"].note
    assert rows["dydit-table12-dit-xl-512-imagenet-512-flops"].note.startswith("published value not transcribed")
    assert not any("change" in row.metric for row in rows.values())  # a change in percent is no number of FLOPs


def test_a_model_that_was_not_counted_is_not_judged():
    rows = {row.claim_id: row for row in judge_flops(count_networks([("DiT-S/8", 256)]))}
    assert rows["dit-table4-dit-s-8-gflops"].verdict == "reproduced"
    assert rows["dit-table4-dit-xl-2-gflops"].command == "python -m bench flops --models DiT-XL/2"


def test_subjects():
    dynamic = find_published(
        "dydit_iclr2025", table="Table 8", row="DyDiT-XL lambda=0.7", metric="FLOPs (MACs convention)"
    )
    assert claim_subject(dynamic) == Subject("DyDiT-XL/2", 256, 0.7)
    assert claim_subject(dataclasses.replace(dynamic, row="DiT-XL static lambda=1.0")) == Subject("DiT-XL/2", 256, None)
    assert claim_subject(dataclasses.replace(dynamic, row="DiT-XL/4 block=adaLN 400K")) is None
    assert claim_subject(dataclasses.replace(dynamic, dataset="Food")) is None
    assert published_macs()[DYDIT_PAPER, Subject("DiT-XL/2", 256, None)].printed == "118.69"


def test_flops_table(measured):
    frame = flops_table(measured)
    assert tuple(frame.columns) == COLUMNS
    assert set(frame["what"]) == {"static", "executed", "target"}
    assert set(frame["convention"]) == {convention.name for convention in CONVENTIONS}
    own = frame[(frame["model"] == "DyDiT-XL/2") & (frame["convention"] == "dydit-paper")].set_index("what")
    assert round(float(own.loc["executed", "gmacs"].iloc[0]), 2) == 119.28
    target = own.loc["target"].set_index("lambda")
    assert list(target.index) == [0.7, 0.6, 0.5, 0.3]
    assert list(target["published_gmacs"]) == [84.33, 67.83, 57.88, 38.85]
    assert target.loc[0.7, "published_block_ratio"] == pytest.approx(0.7047, abs=1e-4)
    assert (frame["gflops_2x"] == 2 * frame["gmacs"]).all()
    assert frame.loc[frame["model"].str.startswith("DyDiT"), "router_gmacs"].notna().all()


def test_operator_table_adds_up(measured):
    sums = operator_table(measured).groupby(["model", "resolution", "counter"])["gmacs"].sum()
    for network in measured:
        key = (network.model, network.resolution)
        assert sums[(*key, "closed form")] == pytest.approx(sums[(*key, "fvcore")], rel=1e-12)
        assert sums[(*key, "torch")] * 1e9 == pytest.approx(network.torch.total, rel=1e-12)


def test_trained_parameters_meet_what_is_printed(measured):
    frame = parameters_table(measured).set_index(["model", "resolution"])
    assert round(float(frame.loc[("DiT-B/2", 256), "trained_m"])) == 130
    assert round(float(frame.loc[("DiT-B/2", 256), "with_position_table_m"])) == 131
    assert round(float(frame.loc[("DyDiT-XL/2", 256), "trained_m"])) == 678


def test_remarks_come_from_the_numbers(measured):
    text = "\n".join(flops_remarks(measured))
    for part in (
        "meets 12 of the 13 printed static FLOPs",
        "meets 3 of the 4",
        "DiT-B/4: 5.56 G is met by no convention",
        "the trained ones meet 18 of the 18",
        "DyDiT-S lambda=0.9: 5.72 G implies 0.938",
        "reports 114.46 of 118.69",
        "executes 119.28 GMACs whatever the masks, 100.5%",
    ):
        assert part in text
    assert flops_remarks([]) == []


@pytest.mark.parametrize("target", [0.3, 0.7, 1.0])
def test_implied_ratio_inverts_the_target(target):
    config = model_config("DyDiT-B/2")
    assert implied_ratio(config, target_macs(config, target, DYDIT_PAPER)) == pytest.approx(target, rel=1e-12)


def test_run_writes_its_tables(tmp_path):
    claims = count_and_judge(Results(tmp_path), "smoke", models=["DiT-S/8", "DyDiT-S/8"], lambdas=[0.25])
    names = {path.stem for path in tmp_path.iterdir()}
    assert names == {"flops", "flops_by_operator", "parameters", "flops_findings"}
    table = read_table(tmp_path, "flops")
    assert set(table.loc[table["what"] == "target", "lambda"]) == {0.25}
    assert {claim.tier for claim in claims} == {"smoke"}


def test_a_name_stands_for_every_resolution_in_print():
    chosen = at_printed_resolutions(["DiT-XL/2", "DyDiT-L/4", "DiT-XL/2"])
    assert chosen == [("DiT-XL/2", 256), ("DiT-XL/2", 512), ("DyDiT-L/4", 256)]


def test_bad_input_is_refused_before_anything_is_counted(tmp_path):
    with pytest.raises(InputError, match="nearest names: DiT-XL/2"):
        count_and_judge(Results(tmp_path), models=["DiT-S/2", "DiT-XL2"])
    with pytest.raises(InputError, match=r"lambda = 1\.5"):
        count_and_judge(Results(tmp_path), models=["DyDiT-S/2"], lambdas=[1.5])
    with pytest.raises(InputError, match="resolution 100"):
        count_network("DiT-S/2", 100)
    assert not any(tmp_path.iterdir())


def test_executed_macs_of_the_masked_forward_ignore_the_masks():
    model = randomised(DyDiT(**TINY.kwargs())).eval()
    inputs = (torch.randn(2, 4, 8, 8), torch.tensor([5, 900]), torch.tensor([1, 10]))
    _, routing = model.route(*inputs)
    assert flops_ratio(routing, TINY).max() < 1
    assert executed_macs(model, inputs) == 2 * macs(TINY, dynamic=True).total(MATMUL)
    # The complete model runs no routers: claimed and executed meet where nothing is masked.
    assert torch_count(model.complete, inputs).total == 2 * macs(TINY).total(MATMUL)


def claimed(path, **changes):
    return measure_checkpoint(path, **({"steps": 4, "images": 3, "batch_size": 3} | changes))


def test_claimed_macs_of_a_checkpoint(tmp_path, measured):
    path = tmp_path / "tiny.safetensors"
    checkpoint.write(path, randomised(DyDiT(**TINY.kwargs())))
    whole, split = claimed(path), claimed(path, batch_size=2)
    assert 0 < whole.ratio < 1
    assert len(whole.ratio_by_step) == 4
    assert whole.macs.total() < macs(TINY, dynamic=True).total()
    # The batch changes nothing but rounding.
    assert split.macs.total() == pytest.approx(whole.macs.total(), rel=1e-6)
    assert split.ratio_by_step == pytest.approx(whole.ratio_by_step, rel=1e-6)
    # Claimed MACs and the ratio of the loss are one formula.
    assert implied_ratio(TINY, whole.macs.total(MATMUL), MATMUL) == pytest.approx(whole.ratio, rel=1e-6)

    # As if it were the published network: its row is judged, and its claim stands in the table.
    posing = dataclasses.replace(
        whole, model="DyDiT-XL/2", resolution=256, target=0.5, config=model_config("DyDiT-XL/2")
    )
    rows = {row.claim_id: row for row in judge_flops(measured, [posing])}
    judged = rows["dydit-table8-dydit-xl-lambda-0.5-flops"]
    assert judged.verdict == "deviates" and "tiny.safetensors: 3 images, 4 DDPM steps" in judged.evidence
    frame = flops_table(measured, [posing])
    assert (frame["what"] == "claimed").sum() == len(CONVENTIONS)


def test_an_all_open_checkpoint_claims_the_complete_model(tmp_path):
    path = tmp_path / "open.safetensors"
    model = DyDiT(**TINY.kwargs())
    for block in model.blocks:  # the biases alone decide, whatever an untrained network makes of its input
        for router in (block.attn_rate.router, block.mlp_rate.router, block.token_selection.mlp_head[2]):
            torch.nn.init.zeros_(router.weight)
    checkpoint.write(path, model)
    run = claimed(path, steps=2, images=1, batch_size=8)
    assert run.ratio == 1.0
    for convention in CONVENTIONS:
        assert run.macs.total(convention) == pytest.approx(macs(TINY, dynamic=True).total(convention), rel=1e-12)


def test_checkpoints_that_cannot_be_measured(tmp_path):
    path = tmp_path / "static.safetensors"
    checkpoint.write(path, DiT(**TINY.kwargs()))
    with pytest.raises(InputError, match="holds no routers"):
        claimed(path)
    with pytest.raises(InputError, match="images = 0"):
        claimed(path, images=0)
    with pytest.raises(InputError, match=r"lambda = 0"):
        claimed(path, target=0.0)
    with pytest.raises(InputError, match="no masks"):
        measure_checkpoint(path, "DiT-XL/2")
    with pytest.raises(InputError, match="no such checkpoint"):
        claimed(tmp_path / "missing.pt")
