"""The search held against counting through every fleet one by one, and its answers against the planner's."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capacity import catalogue, documents, planner, search
from capacity.fleet import pools as sizing
from capacity.fleet.pool import candidates
from capacity.fleet.sizing import Demand, fleet
from capacity.money import ownership, spot
from capacity.money.purchase import hourly
from capacity.phases.context import Context
from capacity.report import search as report
from capacity.search.engines import run
from capacity.search.pareto import front
from capacity.search.place import Place
from capacity.search.tried import tried
from capacity.spec.scenario import Scenario
from capacity.spec.space import Space
from capacity.timing import transfer

TODAY = date(2026, 11, 22)
BASE = "cross-encoder-rerank"
DEVICES = ("t4", "l4", "a100-sxm-80gb")
TERMS = ("on-demand", "spot", "purchase")


def asked(*changes: str, name: str = BASE):
    document = catalogue.scenario_document(name, (), changes)
    scenario = documents.validated(document, Scenario)
    return document, scenario, planner.inputs(scenario, today=TODAY, document=document)


def answered(space: Space, *changes: str, hardware=DEVICES, name: str = BASE):
    document, scenario, given = asked(*changes, name=name)
    variants, refused = search.variants(document, given, space, hardware)
    return search.found(scenario, space, given, run(variants, space, given), refused), given


def by_brute_force(scenario: Scenario, given, hardware: str, space: Space) -> float | None:
    """Return the least monthly USD, from every number of sharing devices × batch × replicas asked for one by one."""
    device = transfer.device(planner.profile(hardware, given), scenario.engine, given.calibrations, given.shared)
    models = planner.sized_models(scenario, given.models)
    context = Context(scenario=scenario, models=models, engines=tuple(given.shared.serving_engines))
    jobs, _ = planner.jobs(scenario, device, models, given)
    price = hourly(hardware, scenario.pricing, TODAY)
    wanted = sizing.demand(scenario)
    more = Demand(rate=wanted.rate * (1 + wanted.headroom), headroom=0, latency_s=1, quantile=wanted.quantile)
    best = None
    (tried,) = candidates(context, device)
    for pool in tried:
        if pool.context.tensor_parallel not in space.parallel or not pool.largest_batch:
            continue
        for size, count in product(sizing.batch_sizes(pool.largest_batch), range(1, space.most_replicas + 1)):
            loads = [pool.load(size)]
            late = [fleet(loads, {pool.name: count}, at).quantile_s for at in (wanted, more)]
            if max(late) > wanted.latency_s:
                continue
            choice = sizing.Choice(fleet(loads, {pool.name: count}, wanted), loads, {pool.name: size}, 0)
            plans = sizing.plans([pool], choice, scenario)
            if scenario.pricing.term == "spot":
                plans = [spot.covered(plan, scenario.pricing.spot) for plan in plans]
            bill = ownership.cost(scenario, device.hardware, plans, jobs, given.rates, TODAY)
            best = bill.usd if best is None else min(best, bill.usd)
    return best if price else None


@given(
    rate=st.floats(2, 120), latency_ms=st.floats(60, 2500), batch=st.sampled_from([1, 2, 5, 8]),
    headroom=st.floats(0, 0.6), hardware=st.sampled_from(DEVICES), term=st.sampled_from(TERMS),
)  # fmt: skip
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_best_is_that_of_counting_through_all(rate, latency_ms, batch, headroom, hardware, term):
    changes = (
        f"traffic.peak_rate={rate:.4g}/s", f"objective.latency={latency_ms:.5g} ms", f"serving.max_batch={batch}",
        f"resilience.headroom={headroom:.3g}", f"pricing.term={term}",
    )  # fmt: skip
    space = Space(most_replicas=24, parallel=(1, 2))
    answer, given_ = answered(space, *changes, hardware=(hardware,))
    _, scenario, _ = asked(*changes)
    least = by_brute_force(scenario, given_, hardware, space)
    if least is None:
        assert answer.best is None
    else:
        assert answer.best is not None
        assert answer.best.usd == pytest.approx(least, abs=0.005)


CHARGED = ("pricing.software.per_device_hour=0.5 USD/h", "pricing.support.share=0.04")
UNPLUGGED = ("pricing.energy=separate", "pricing.spot.interruptions=0.2")
SLICED = ("serving.pools={online: {slices: 4}}",)


@pytest.mark.parametrize(("changes", "name"), [
    ((), BASE), (CHARGED, BASE), (UNPLUGGED, BASE), (CHARGED, "cascade"), (CHARGED, "gpt2-two-tower"),
    (SLICED, "bert-id-ranker"), ((*SLICED, *UNPLUGGED), "bert-id-ranker"),
])  # fmt: skip
def test_every_fleet_is_billed_as_a_plan_bills_it(changes, name):
    space = Space(terms=TERMS, most_replicas=300)
    document, _, given_ = asked(*changes, name=name)
    ((variant,), _) = search.variants(document, given_, space, ("h100-sxm-80gb",))
    item, place = tried(variant, space, given_), Place.of(variant, given_)
    assert [way.term for way in item.buying] == list(TERMS)
    rows = np.random.default_rng(0).choice(len(item.usd), size=min(8, len(item.usd)), replace=False)
    for row, (column, way) in product(map(int, rows), enumerate(item.buying)):
        option = place.option(*place.choice(item.fleets, row), way, given_)
        assert item.usd[row, column] == pytest.approx(option.cost.usd, rel=1e-5)  # weights are stored whole or in parts
        assert item.held[row, column] == sum(pool.devices for pool in option.pools)


def test_a_candidate_has_the_total_of_a_plan():
    answer, given_ = answered(Space())
    _, scenario, _ = asked()
    plan = planner.plan(scenario, given_, DEVICES)
    totals = {option.hardware: option.cost.usd for option in plan.options if option.cost}
    found = {item.variant.hardware: item for item in answer.ranked}
    for hardware, usd in totals.items():
        assert found[hardware].usd <= usd + 0.005
        assert found[hardware].option.cost.usd == pytest.approx(found[hardware].usd, abs=0.005)
    assert {item.variant.hardware for item in answer.ranked} == set(totals)


@pytest.mark.parametrize(("name", "changes", "term"), [
    ("cascade", (), "on-demand"),  # its LLM takes two devices a replica where one would hold it
    (BASE, ("pricing.term=purchase",), "spot"),  # rented devices pay for no energy
    (BASE, ("pricing.energy=included",), "purchase"),  # bought ones do, whatever the file says
])  # fmt: skip
def test_the_settings_of_a_candidate_plan_it_again(name, changes, term):
    answer, _ = answered(Space(terms=(term,), most_replicas=64), *changes, hardware=("l4",), name=name)
    best = answer.best
    _, scenario, given_ = asked(*changes, *report.settings(best), name=name)
    (option,) = planner.plan(scenario, given_, ("l4",)).options
    assert option.devices == best.devices
    assert option.cost.usd == pytest.approx(best.usd, rel=1e-3)  # a plan may take smaller batches of as many devices
    (again,) = planner.plan(best.scenario, given_, ("l4",)).options
    assert again.cost.usd == pytest.approx(option.cost.usd, abs=0.005)


def test_candidates_whose_jobs_run_on_idle_devices_are_ranked_by_what_they_cost():
    space = Space(terms=("purchase", "spot"), most_replicas=64)
    answer, _ = answered(space, "jobs_on_idle_serving=true", hardware=("l4", "t4"), name="bert-id-ranker")
    costs = [item.option.cost.usd for item in answer.ranked]
    assert costs == sorted(costs) == [item.usd for item in answer.ranked]


def test_several_pools_are_never_dearer_than_planned():
    hardware = ("l40s", "a100-sxm-80gb")
    answer, given_ = answered(Space(most_replicas=64), hardware=hardware, name="cascade")
    _, scenario, _ = asked(name="cascade")
    plan = planner.plan(scenario, given_, hardware)
    found = {item.variant.hardware: item.usd for item in answer.ranked}
    for option in plan.options:
        if option.cost is not None:
            assert found[option.hardware] <= option.cost.usd + 0.005


def test_every_constraint_is_kept_and_named_where_it_is_missed():
    free, _ = answered(Space(terms=("on-demand", "spot")))
    best = free.best
    stock = {best.variant.hardware: best.devices - 1}
    tight = Space(terms=("on-demand", "spot"), stock=stock, budget=best.usd * 3, least_room=0.5)
    answer, _ = answered(tight)
    for item in (*answer.ranked, *answer.front):
        assert item.usd <= tight.budget
        assert item.room >= 0.5
        assert item.devices <= tight.stock.get(item.variant.hardware, 10**9)
    told = {near.violation.constraint for near in answer.near}
    assert told
    for near in answer.near:
        assert near.candidate.usd < answer.best.usd
        assert near.gap > 0
    assert told <= {"load at peak with headroom", "latency with headroom", "devices in stock", "room beyond the peak"}


def test_a_budget_that_nothing_keeps_leaves_no_best():
    answer, _ = answered(Space(budget=1.0))
    assert answer.best is None
    assert {near.violation.constraint for near in answer.near} <= {"budget of a month", "load at peak with headroom"}


def test_a_best_that_misses_when_played_is_not_said_to_break_a_constraint():
    answer, _ = answered(Space())
    late = SimpleNamespace(meets=False, result=None, refused="")
    missed = replace(answer, ranked=(replace(answer.ranked[0], simulated=late), *answer.ranked[1:]))
    assert missed.best is None
    assert "the cheapest miss the objective when simulated: all 1 that were played" in report.answer(missed)


def test_what_cannot_be_chosen_is_told_with_its_reason():
    answer, _ = answered(Space(terms=("on-demand", "3-year"), levers=("kv-fp8",), most_replicas=4))
    reasons = {item.reason for item in answer.refused}
    assert "no 3-year price" in reasons
    assert any(item.what.endswith("kv-fp8") for item in answer.refused)


def test_a_device_without_the_rate_of_a_dtype_is_refused_and_the_others_are_searched():
    space = Space(dtypes=("fp8",), most_replicas=8)
    answer, _ = answered(space, hardware=("a100-sxm-80gb", "l40s"), name="generated-copy")
    assert {item.variant.hardware for item in answer.ranked} == {"l40s"}
    assert any(item.reason.startswith("a100-sxm-80gb has no dense fp8 rate") for item in answer.refused)


def test_the_front_holds_what_no_other_row_beats():
    random = np.random.default_rng(3)
    columns = [random.integers(0, 12, 300).astype(float) for _ in range(3)]
    kept = set(front(*columns).tolist())
    values = np.stack(columns, axis=1)
    for row in range(300):
        beaten = ((values <= values[row]).all(axis=1) & (values < values[row]).any(axis=1)).any()
        same = next(place for place in range(300) if (values[place] == values[row]).all())
        assert (row in kept) == (not beaten and same == row)


def test_what_was_kept_before_a_price_came_is_not_what_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    document, scenario, given_ = asked()
    space = Space(terms=("1-year",), most_replicas=16)
    variants, _ = search.variants(document, given_, space, ("l4",))

    def best():
        return search.found(scenario, space, given_, run(variants, space, given_, folder=tmp_path / "kept")).best

    assert best() is None
    (tmp_path / "prices").mkdir()
    head = "hardware,provider,sku,devices,region,term,usd_per_device_hour,date,source,quality,note"
    (tmp_path / "prices" / "mine.csv").write_text(f"{head}\nl4,me,x,1,any,1-year,0.5,2026-11,me,published,\n")
    assert best().buying.usd_per_hour == 0.5


def test_kept_results_are_the_same_and_are_read_back(tmp_path):
    document, scenario, given_ = asked()
    space = Space(most_replicas=16)
    variants, _ = search.variants(document, given_, space, DEVICES)
    first = run(variants, space, given_, folder=tmp_path)
    (tmp_path / sorted(path.name for path in tmp_path.iterdir())[0]).write_bytes(b"cut short")
    heard: list[str] = []
    again = run(variants, space, given_, folder=tmp_path, told=heard.append)
    assert heard == ["3 of 3 variants"]  # only the damaged one is tried again
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one.usd, other.usd)
        assert one.cheapest == other.cheapest
    answers = [search.found(scenario, space, given_, found) for found in (first, again)]
    assert answers[0].best.usd == answers[1].best.usd
