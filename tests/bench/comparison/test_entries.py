from __future__ import annotations

import pytest

from bench.comparison.entries import DEFAULTS, Entry, parse_entries, parse_entry
from bench.comparison.stages import NETWORK, methods_study, stage_of
from dydit import InputError


@pytest.mark.parametrize(
    ("text", "network", "method", "sampler", "steps", "family"),
    [
        ("static", "static", "none", "ddpm", 50, "static"),
        ("fora:2", "static", "fora:2", "ddpm", 50, "fora"),
        ("dydit:0.5", "dydit:0.5", "none", "ddpm", 50, "dydit"),
        ("dydit:0.5,fora:2", "dydit:0.5", "fora:2", "ddpm", 50, "dydit + fora"),
        ("remove:1+2,tome:0.5@ddim:25", "remove:1+2", "tome:0.5", "ddim", 25, "remove + tome"),
        ("static@dpm-solver++:20", "static", "none", "dpm-solver++", 20, "sampler"),
    ],
)
def test_an_entry_is_read(text: str, network: str, method: str, sampler: str, steps: int, family: str) -> None:
    entry = parse_entry(text, NETWORK, 50)
    assert entry == Entry(text, network, method, sampler, steps)
    assert entry.family == family


@pytest.mark.parametrize(
    ("texts", "models", "part"),
    [
        (["nothing"], [], "unknown method 'nothing'"),
        (["fora:2,static"], [], "is no network"),
        (["static,fora:2,tome:0.5"], [], "one network and one method"),
        (["static,prune:taylor:0.5"], [], "write it first"),
        (["dydit:0.6"], [], "dydit:LAMBDA"),
        (["control:1"], [], "takes no settings"),
        (["prune:taylor:0.95"], [], "leaves none of 6 heads"),
        (["remove:4"], [], "layer 4"),
        (["static@ddim"], [], "SAMPLER:STEPS"),
        (["static@ddim:333"], [], "333 DDIM steps"),
        (["static@ddim:²"], [], "SAMPLER:STEPS"),
        (["static@euler:5"], [], "sampler 'euler'"),
        (["fora:2", "fora:2"], [], "given twice"),
        ([], ["fora"], "package.module:factory"),
    ],
)
def test_what_is_no_entry_is_refused(texts: list[str], models: list[str], part: str) -> None:
    with pytest.raises(InputError, match=part):
        parse_entries(texts, models, NETWORK, 50)


def test_static_comes_first_and_is_there_without_being_asked_for() -> None:
    assert [entry.name for entry in parse_entries(["fora:2"], [], NETWORK, 50)] == ["static", "fora:2"]
    assert [entry.name for entry in parse_entries(["fora:2", "static"], [], NETWORK, 50)] == ["static", "fora:2"]


def test_the_defaults_have_one_of_every_family() -> None:
    families = {entry.family for entry in parse_entries(DEFAULTS, [], NETWORK, 50)}
    wanted = {"static", "control", "dydit", "prune", "remove", "skip", "tome", "deepcache", "fora", "taylorseer"}
    assert families == {*wanted, "sampler", "dydit + fora"}


def test_every_trained_method_has_as_many_steps_and_the_static_model_as_its_parent() -> None:
    entries = parse_entries(DEFAULTS, [], NETWORK, 50)
    study = methods_study(entries)
    stages = {stage.name: stage for stage in study.stages}
    assert {stage_of(entry, seed) for entry in entries for seed in (1, 2, 3)} == set(stages)
    tuned = [stage for stage in study.stages if stage.parent is not None]
    assert {(stage.recipe.steps, stage.parent) for stage in tuned} == {(1000, "dit-m")}
    assert len(tuned) == 3 * sum(entry.trained for entry in entries) - 3  # a DyDiT with a method over it has its files
