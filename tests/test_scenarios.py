"""Every shipped scenario is a promise: it loads, has an answer, and the answer behaves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from golden import DOMAINS, FOLDER, SCENARIOS, TODAY, plan_of, text

from capacity import catalogue, documents, planner
from capacity.errors import InputError

WANTED = {
    "gpt2-two-tower",
    "lstm-sequence",
    "bert-content-classifier",
    "bert-id-ranker",
    "realtime-pipeline",
    "generated-copy",
    "cross-encoder-rerank",
}
OVERRIDES = [(name, override) for name in SCENARIOS for override in sorted(catalogue.scenario(name).overrides)]


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield path and value of everything that is no mapping; list entries with a name stand under it."""
    if (
        isinstance(value, list | tuple)
        and value
        and all(isinstance(entry, dict) and "name" in entry for entry in value)
    ):
        value = {entry["name"]: entry for entry in value}
    if not isinstance(value, dict):
        yield path, value
        return
    for key, child in value.items():
        yield from leaves(child, (*path, key))


def changed(name: str, override: str) -> set[tuple[str, ...]]:
    """Return the paths at which a scenario differs from itself under an override."""
    base, other = (dict(leaves(catalogue.scenario(name, names).model_dump())) for names in ((), (override,)))
    assert base.keys() == other.keys()
    return {path for path, value in base.items() if other[path] != value}


# What ships


def test_the_systems_of_the_brief_ship():
    assert set(SCENARIOS) >= WANTED
    assert set(DOMAINS) == {"e-commerce", "news", "video", "music", "social-feed", "education", "health"}


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_is_named_after_its_file_and_says_where_its_numbers_are_from(name):
    path = documents.find("scenarios", name)
    scenario = catalogue.scenario(name)
    assert path.read_text(encoding="utf-8").startswith("# yaml-language-server: $schema=")
    assert scenario.id == path.stem == name
    assert scenario.title
    assert scenario.description
    assert scenario.sources
    assert len(scenario.overrides) >= 2


@pytest.mark.parametrize("name", SCENARIOS)
def test_everything_a_scenario_names_exists(name):
    scenario = catalogue.scenario(name)
    parts = (*scenario.serving.stages, *scenario.training, *scenario.batch)
    models = {part.model for part in parts if getattr(part, "model", None)}
    assert models <= documents.catalogue("model_profiles").keys()
    assert set(scenario.hardware) <= documents.catalogue("hardware_profiles").keys()
    assert 3 <= len(scenario.hardware) <= 6
    names = [part.name for part in parts]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", DOMAINS)
def test_a_domain_applies_to_any_scenario_and_gives_reasons(name):
    domain = catalogue.domain(name)
    assert domain.id == name
    assert domain.override.keys() <= {"catalogue", "audience", "traffic", "objective", "network", "storage"}
    assert all("assumed" in reason or "." in reason.split(":", 1)[1] for reason in domain.assumptions)


# The answer


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_has_an_answer_with_a_price(name):
    plan = plan_of(name)
    best = plan.best
    assert best is not None
    assert best.cost is not None
    assert best.cost.usd > 0
    assert not best.cost.missing
    assert best.latency_quantile_s <= plan.objective_latency_s
    assert best.cost.p10_usd <= best.cost.usd <= best.cost.p90_usd
    assert all(0 < pool.utilization < 1 for pool in best.pools)


@pytest.mark.parametrize("name", SCENARIOS)
def test_an_option_is_feasible_or_says_why_not(name):
    for option in plan_of(name).options:
        assert option.feasible or all(missed.constraint and missed.where for missed in option.violations)
        assert option.feasible == (option.cost is not None)


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_same_question_gets_the_same_answer(name):
    scenario = catalogue.scenario(name)
    again = planner.plan(scenario, planner.inputs(scenario, today=TODAY))
    assert repr(again) == repr(plan_of(name))  # records hold arrays, which do not compare as one


@pytest.mark.parametrize("name", SCENARIOS)
def test_twice_the_traffic_never_needs_less(name):
    scenario = catalogue.scenario(name)
    doubled = plan_of(name, (), (f"traffic.peak_rate={2 * scenario.traffic.peak_rate}",))
    less = {option.hardware: option for option in plan_of(name).options}
    for more in doubled.options:
        option = less[more.hardware]
        if more.feasible:
            assert option.feasible, more.hardware
            assert more.devices >= option.devices
            assert more.cost.usd >= option.cost.usd


@pytest.mark.parametrize("name", SCENARIOS)
def test_half_the_time_never_needs_less(name):
    scenario = catalogue.scenario(name)
    hurried = plan_of(name, (), (f"objective.latency={scenario.objective.latency / 2}",))
    patient = {option.hardware: option for option in plan_of(name).options}
    for option in hurried.options:
        if option.feasible:
            assert patient[option.hardware].feasible
            assert option.devices >= patient[option.hardware].devices


# What-ifs


@pytest.mark.parametrize(("name", "override"), OVERRIDES)
def test_an_override_changes_what_it_says_and_nothing_else(name, override):
    says = {path for path, _ in leaves(catalogue.scenario(name).overrides[override])}
    assert changed(name, override) == says
    plan = plan_of(name, (override,))
    assert any(option.feasible for option in plan.options)
    assert [option.cost for option in plan.options] != [option.cost for option in plan_of(name).options]


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_any_system_can_be_planned_for_any_domain(name, domain):
    says = {path for path, _ in leaves(catalogue.domain(domain).override)}
    assert changed(name, domain) <= says
    plan = plan_of(name, (domain,))
    assert plan.peak_rate == catalogue.scenario(name, (domain,)).traffic.peak_rate
    for option in plan.options:
        assert option.feasible or all(missed.constraint for missed in option.violations)


def test_most_pairs_of_system_and_domain_have_an_answer():
    pairs = [(name, domain) for name in SCENARIOS for domain in DOMAINS]
    answered = [pair for pair in pairs if plan_of(pair[0], (pair[1],)).best]
    assert len(answered) >= 0.9 * len(pairs)


def test_a_setting_addresses_a_stage_by_its_name():
    name, settings = "cross-encoder-rerank", ("serving.stages.rerank.dtype=int8", "traffic.peak_rate=40/s")
    scenario = catalogue.scenario(name, (), settings)
    assert [stage.dtype for stage in scenario.serving.stages if stage.name == "rerank"] == ["int8"]
    assert scenario.traffic.peak_rate == 40
    assert plan_of(name, (), settings).best is not None


def test_settings_come_last():
    scenario = catalogue.scenario("cross-encoder-rerank", ("news", "growth"), ("traffic.peak_rate=1/s",))
    assert scenario.traffic.peak_rate == 1
    assert scenario.catalogue.items == catalogue.scenario("cross-encoder-rerank", ("news",)).catalogue.items


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("serving.stages.rerunk.dtype=int8", "no entry 'rerunk'; did you mean rerank?"),
        ("serving.stages.rerank.dtypo=int8", "unknown key"),
        ("traffic.peak_rate=-1/s", "greater than 0"),
        ("traffic.peak_rate", "path.to.key=value"),
    ],
)
def test_a_wrong_setting_is_refused_with_a_reason(setting, said):
    with pytest.raises(InputError) as caught:
        catalogue.scenario("cross-encoder-rerank", (), (setting,))
    assert said in str(caught.value)


# Physics and commerce


def test_tables_grow_with_catalogue_and_audience():
    def weights(name: str, setting: str) -> float:
        return sum(pool.memory_bytes["weights"] for pool in plan_of(name, (), (setting,)).best.pools)

    assert weights("lstm-sequence", "catalogue.items=100000") > 1.9 * weights("lstm-sequence", "catalogue.items=50000")
    small, large = (weights("bert-id-ranker", f"audience.users={users}") for users in (1_000_000, 2_000_000))
    assert large - small == 1_000_000 * 256 * 2  # a row of 256 values at fp16 for each user more


def test_host_work_delays_a_request_but_keeps_no_device_busy():
    slow = plan_of("gpt2-two-tower", (), ("serving.stages.tokenize.time=20 ms",))
    fast = {option.hardware: option for option in plan_of("gpt2-two-tower").options}
    for option in slow.options:
        assert option.devices == fast[option.hardware].devices
        assert option.latency_median_s == pytest.approx(fast[option.hardware].latency_median_s + 0.0198)


def test_cached_requests_hold_no_memory():
    settings = [f"serving.stages.write-copy.cache_hit_rate={share}" for share in (0.5, 0.9)]
    half, tenth = (
        {
            option.hardware: option.pools[0].replicas * option.pools[0].memory_bytes["KV cache"]
            for option in plan_of("generated-copy", (), (setting,)).options
            if option.feasible
        }
        for setting in settings
    )
    assert len(half) >= 3
    assert all(half[name] >= 3 * tenth[name] for name in half)  # five times the texts, each made sooner


def test_new_items_are_those_of_the_time_between_two_runs():
    plans = [plan_of("realtime-pipeline", (), (f"batch.encode-new-items.every={every}",)) for every in ("1 d", "1 h")]
    daily, hourly = (next(job for job in plan.best.jobs if job.name == "encode-new-items") for plan in plans)
    assert hourly.duration.value == pytest.approx(daily.duration.value / 24, rel=0.01)
    assert hourly.device_hours_per_month.value == pytest.approx(daily.device_hours_per_month.value, rel=0.01)


# Golden


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_answer_is_the_one_last_reviewed(name, request):
    path = FOLDER / f"{name}.json"
    if request.config.getoption("--regenerate"):
        FOLDER.mkdir(exist_ok=True)
        path.write_text(text(name), encoding="utf-8")
    known = path.read_text(encoding="utf-8")
    assert text(name) == known, (
        "if the change is meant: pytest tests/test_scenarios.py --regenerate, then review the diff"
    )


def test_no_golden_file_is_left_over(request):
    gone = [path for path in FOLDER.glob("*.json") if path.stem not in SCENARIOS]
    if request.config.getoption("--regenerate"):
        for path in gone:
            path.unlink()
    assert {path.stem for path in FOLDER.glob("*.json")} == set(SCENARIOS)
