"""Unit costs: one made-up bill worked out by hand, what they add up to, and that every output tells the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from golden import SCENARIOS, plan_of
from report_plans import plan, unpriced
from streamlit.testing.v1 import AppTest

from capacity import catalogue
from capacity.money.unit_costs import UNKNOWN_ITEMS, items_returned, monthly_requests, unit_costs
from capacity.plan import Cost, CostLine, PoolPlan, UnitCost
from capacity.report import json_report
from capacity.report import unit_costs as report
from capacity.report.cells import Missing
from capacity.spec.scenario import Scenario
from capacity.timing.band import Estimate

ROOT = Path(__file__).resolve().parent.parent
PEAK = 1000 / (730 * 3600)
"""A thousand requests a month at a mean rate as high as the peak [1/s]."""
RERANK = {"name": "rerank", "task": "encode", "model": "bge-reranker-v2-m3", "sequences": 20, "tokens": "pair"}
WRITE = {"name": "write", "task": "generate", "model": "qwen3-8b", "prompt_tokens": 300, "output_tokens": 50}


def scenario(*stages: dict, **more: object) -> Scenario:
    return Scenario.model_validate(
        {
            "id": "shop", "title": "Shop", "hardware": ["l4"], "catalogue": {"items": 1000, "item_tokens": 90},
            "audience": {"users": 50, "query_tokens": 10}, "traffic": {"peak_rate": PEAK, "mean_to_peak": 1},
            "objective": {"latency": 1}, "serving": {"stages": list(stages)}, **more,
        }
    )  # fmt: skip


def line(group: str, name: str, usd: float | None) -> CostLine:
    return CostLine(
        group=group, name=name, quantity=1460.0, unit="device-hours", unit_price_usd=usd, usd=usd, p10_usd=usd,
        p90_usd=usd, basis="assumed", formula="", source="",
    )  # fmt: skip


def bill(*lines: CostLine) -> Cost:
    usd = sum(item.usd or 0 for item in lines)
    return Cost(
        lines=lines, usd=usd, p10_usd=usd, p90_usd=usd, missing=(), usd_per_thousand_requests=usd,
        energy_kwh=5.0, carbon_kg=2.0,
    )  # fmt: skip


POOL = PoolPlan(
    name="online", replicas=1, spare_replicas=1, replicas_p10=1, replicas_p90=1, devices_per_replica=1, batch=1,
    service=Estimate(0.1, {}, "assumed"), forming_s=0, wait_p50_s=0, wait_p99_s=0, utilization=0.5, memory_bytes={},
    memory_available_bytes=None,
)  # fmt: skip
HAND = bill(line("devices", "serving online", 60.0), line("storage", "logs", 40.0))


def by_key(*stages: dict, cost: Cost = HAND) -> dict[str, UnitCost]:
    return {item.key: item for item in unit_costs(scenario(*stages), [POOL], [], cost).costs}


def test_a_bill_of_100_dollars_for_a_thousand_requests_by_hand():
    found = by_key(RERANK, WRITE)
    # 20 pairs of 90 + 10 tokens and a prompt of 300: 2,300 tokens read, 50 written, for each of 1,000 requests
    assert found["thousand_requests"].bill_usd == pytest.approx(100)
    assert found["thousand_requests"].serving_usd == pytest.approx(60)
    assert found["thousand_items_returned"].bill_usd == pytest.approx(100 / 20)
    assert found["million_input_tokens"].amount == pytest.approx(2.3e6)
    assert found["million_input_tokens"].bill_usd == pytest.approx(100 / 2.3)
    assert found["million_output_tokens"].bill_usd == pytest.approx(100 / 0.05)
    assert found["million_total_tokens"].bill_usd == pytest.approx(100 / 2.35)
    assert found["million_total_tokens"].per_usd == pytest.approx(23_500)
    assert found["user_month"].bill_usd == pytest.approx(2)
    assert found["million_input_tokens"].counted == "read by rerank, write, without what caches answer"


def test_energy_and_carbon_are_those_of_a_thousand_requests():
    found = unit_costs(scenario(RERANK), [POOL], [], HAND)
    assert (found.energy_kwh, found.carbon_kg) == pytest.approx((5, 2))
    assert unit_costs(scenario(RERANK), [POOL], [], replace(HAND, energy_kwh=None)).energy_kwh is None


def test_half_a_device_of_two_is_used_a_quarter():
    (use,) = unit_costs(scenario(RERANK), [POOL], [], HAND).uses
    assert (use.used_hours, use.idle_hours) == pytest.approx((365, 1095))
    assert (use.used_usd, use.idle_usd) == pytest.approx((15, 45))
    assert use.used_share == pytest.approx(0.25)


def test_at_a_fifth_of_the_traffic_a_token_costs_five_times():
    few = scenario(WRITE, traffic={"peak_rate": PEAK / 5, "mean_to_peak": 1})
    costs = {item.key: item.bill_usd for item in unit_costs(few, [POOL], [], HAND).costs}
    assert costs["million_output_tokens"] == pytest.approx(5 * (by_key(WRITE)["million_output_tokens"].bill_usd or 0))


def test_what_a_cache_answers_reads_nothing():
    whole, half = (by_key({**WRITE, "cache_hit_rate": rate})["million_input_tokens"].amount for rate in (0, 0.5))
    assert half == pytest.approx((whole or 0) / 2)
    answered = by_key({**RERANK, "cache_hit_rate": 0.5, "cache_answers": True}, WRITE)
    assert answered["million_output_tokens"].amount == pytest.approx(25_000)


def test_beams_write_each_their_own_tokens_and_return_an_item_each():
    found = by_key({**WRITE, "beams": 8})
    assert found["million_output_tokens"].amount == pytest.approx(8 * 50_000)
    assert found["thousand_items_returned"].amount == pytest.approx(8000)


@pytest.mark.parametrize(
    ("name", "items", "said"),
    [
        ("bert-content-classifier", 20, "the top 20 of affinity"),
        ("cascade", 30, "all 30 candidates of rerank"),
        ("dlrm-dcnv2", 270, "all 270 candidates of score"),
        ("generated-copy", None, UNKNOWN_ITEMS),
    ],
)
def test_items_are_those_of_the_last_stage_that_orders_some(name, items, said):
    assert items_returned(catalogue.scenario(name)) == (items, said)


def test_without_text_tokens_are_not_counted_and_say_why():
    found = by_key({"name": "search", "task": "retrieve", "width": 64})
    for key in ("million_input_tokens", "million_output_tokens", "million_total_tokens"):
        assert found[key].amount is found[key].bill_usd is found[key].per_usd is None
    assert found["million_total_tokens"].counted == "no stage reads or writes text"


def test_without_a_device_price_there_is_no_unit_cost():
    (option,) = unpriced().options
    told = json_report.to_dict(unpriced())["options"][0]["cost"]["unit_costs"]
    assert told["usd_per_million_input_tokens"] is None
    assert told["usd_per_million_input_tokens_reason"] == "no price"
    assert told["input_tokens_per_month"] > 0
    assert report.use_table(option).total["used_usd_per_month"] == Missing("no price")


@pytest.mark.parametrize("name", SCENARIOS)
def test_units_of_every_shipped_scenario_add_up_to_its_bill(name):
    found = catalogue.scenario(name)
    for option in plan_of(name).options:
        if option.cost is None or option.cost.units is None:
            assert option.violations
            continue
        cost, units = option.cost, option.cost.units
        assert units.costs[0].bill_usd == pytest.approx(cost.usd_per_thousand_requests)
        assert units.costs[0].amount == pytest.approx(monthly_requests(found))
        for item in units.costs:
            if item.amount is not None:
                assert item.bill_usd * item.amount / item.size == pytest.approx(cost.usd)
                assert item.serving_usd <= item.bill_usd
        hours = sum(entry.quantity for entry in cost.lines if entry.group == "devices")
        assert sum(use.used_hours + use.idle_hours for use in units.uses) == pytest.approx(hours)
        usd = sum(entry.usd for entry in cost.lines if entry.group == "devices")
        assert sum(use.used_usd + use.idle_usd for use in units.uses) == pytest.approx(usd)
        assert all(use.used_hours >= 0 and use.idle_hours >= -1e-9 for use in units.uses)


def test_table_and_json_tell_the_same():
    option = plan().options[0]
    told = json_report.to_dict(plan())["options"][0]["cost"]["unit_costs"]
    rows = {row["name"]: row for row in report.unit_table(option).rows}
    assert rows["1 M input tokens"]["bill_usd"] == told["usd_per_million_input_tokens"]
    assert rows["1 M input tokens"]["serving_devices_usd"] == told["serving_devices_usd_per_million_input_tokens"]
    assert rows["1 M total tokens"]["per_usd"] == told["total_tokens_per_usd"]
    assert told["device_hours"][0]["name"] == "serving online"
    assert f"{told['energy_kwh_per_thousand_requests']:.3g} kWh" in report.energy(option)
    bare = replace(option, cost=None)
    assert report.unit_table(bare).rows == report.use_table(bare).rows == ()


def test_the_plan_page_shows_them_below_the_bill(monkeypatch):
    monkeypatch.delenv("CAPACITY_SCENARIO", raising=False)
    app = AppTest.from_file(str(ROOT / "dashboard.py"), default_timeout=60).run()
    assert not app.exception
    (found,) = [item for item in app.expander if item.label == "Unit costs"]
    said = " ".join(item.value for item in found.get("html"))
    assert all(name in said for name in ("1 M input tokens", "1,000 items returned", "user-month", "serving online"))
    assert "kg CO2e" in found.caption[0].value
