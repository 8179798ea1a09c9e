"""`capacity optimize` as a person and as a program runs it; on a cluster, a killed worker changes nothing."""

from __future__ import annotations

import json
import os
from datetime import date
from pathlib import Path

import pytest
from typer.testing import CliRunner

from capacity import catalogue, documents, planner, search
from capacity.cli import app
from capacity.errors import InputError
from capacity.search import engines
from capacity.spec.scenario import Scenario
from capacity.spec.space import Space

BASE = "cross-encoder-rerank"
FAST = ["--simulate", "0", "--today", "2026-11-22", "-H", "l4", "-H", "t4", "--with", "most_replicas=24"]


def optimized(*words: str):
    return CliRunner().invoke(app, ["optimize", BASE, *FAST, *words])


def test_it_says_the_best_and_why_not_the_cheaper_one():
    result = optimized()
    assert result.exit_code == 0
    assert "the cheapest is 7 × L4" in result.stdout
    assert "Why not the cheaper one" in result.stdout
    assert "capacity plan cross-encoder-rerank --hardware l4" in result.stdout


def test_json_carries_everything(tmp_path):
    space = tmp_path / "space.yaml"
    space.write_text("terms: [on-demand, spot]\nbudget: 20,000 USD/month\n", encoding="utf-8")
    result = optimized("--json", "--space", str(space))
    assert result.exit_code == 0, result.stdout
    told = json.loads(result.stdout)
    assert (told["schema"], told["space"]["terms"]) == ("capacity.search", ["on-demand", "spot"])
    assert told["best"]["usd_per_month"] == min(item["usd_per_month"] for item in told["ranked"])
    assert told["configurations"] >= told["feasible"] > 0
    assert all(item["gap_fraction"] > 0 for item in told["near"])


def test_nothing_that_keeps_the_budget_is_exit_1():
    result = optimized("--with", "budget=1 USD/month")
    assert result.exit_code == 1
    assert "none keeps every constraint" in result.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--with", "harware=all"], "did you mean hardware"),
        (["--with", "hardware=[h1000]"], "h100"),
        (["--with", "terms=[weekly]"], "terms"),
        (["--engine", "rey"], "did you mean ray"),
        (["--with", "levers=[kvfp8]"], "did you mean kv-fp8"),
    ],
)
def test_bad_input_is_told_where_it_stands(words, said):
    arguments = [word for word in FAST if word not in {"-H", "l4", "t4"}]
    try:
        result = CliRunner().invoke(app, ["optimize", BASE, *arguments, *words], catch_exceptions=False)
        text = result.output
    except InputError as error:
        text = str(error)
    except Exception as error:
        text = str(error)
    assert said in text


def test_a_candidate_is_played_and_held():
    result = CliRunner().invoke(
        app, ["optimize", BASE, "--simulate", "1", "-H", "l4", "--today", "2026-11-22", "--json"]
    )
    told = json.loads(result.stdout)
    assert told["best"]["simulated_holds"] is True
    assert told["best"]["simulated_s"] < 2


def test_a_cluster_gives_the_same_answer_though_a_worker_dies(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    document = catalogue.scenario_document(BASE)
    scenario = documents.validated(document, Scenario)
    given = planner.inputs(scenario, today=date(2026, 11, 22), document=document)
    space = Space(most_replicas=16, terms=("on-demand", "spot"))
    variants, _ = search.variants(document, given, space, ("t4", "l4", "a10g", "a100-sxm-80gb", "h100-sxm-80gb"))
    here = search.run(variants, space, given)
    marker = str(tmp_path / "died")
    tries = engines.chunk

    def dying(part, space, given):
        try:
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return tries(part, space, given)
        os._exit(1)

    monkeypatch.setattr(engines, "chunk", dying)
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": ROOT}})
    try:
        there = search.run(variants, space, given, engine="ray", folder=tmp_path / "kept")
    finally:
        ray.shutdown()
    assert Path(marker).exists()
    for one, other in zip(here, there, strict=True):
        assert one.variant == other.variant
        assert (one.usd == other.usd).all()
        assert one.cheapest == other.cheapest
    again = search.run(variants, space, given, folder=tmp_path / "kept", told=pytest.fail)
    assert [item.cheapest for item in again] == [item.cheapest for item in here]


ROOT = str(Path(__file__).resolve().parent.parent)
