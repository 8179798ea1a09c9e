"""Devices bought: annuities by hand, the lines of a bill, devices that jobs share, and what the tables must say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_plans import TODAY, plan

from capacity import catalogue, planner
from capacity.errors import CapacityError, InputError
from capacity.money.devices import Fleet
from capacity.money.price_tables import device_prices, purchase_prices
from capacity.money.purchase import annuity, capital_month, hourly, installed_usd, purchase_range, shares
from capacity.plan import JobPlan
from capacity.spec.buying import Ownership
from capacity.spec.scenario import Pricing
from capacity.timing.band import Estimate

DAY_S = 86400.0
HEADER = "hardware,provider,sku,usd_per_device,low,high,date,source,quality,note"
ROW = "t4,shop,T4,1000,800,1500,2026-05,invoice,published,"


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that puts lines in place of the shipped purchase.csv."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAPACITY_PATH", str(tmp_path))
    (tmp_path / "prices").mkdir()

    def write(*lines: str, name: str = "purchase.csv") -> None:
        text = "\n".join([HEADER, *lines]) + "\n"
        (tmp_path / "prices" / name).write_text(text, encoding="utf-8")

    return write


def job(name: str, devices: int, hours: float, every_days: float, deadline_days: float | None = None) -> JobPlan:
    every_s = every_days * DAY_S
    return JobPlan(
        name=name, kind="batch encode", devices=devices, duration=Estimate(hours * 3600, {}, "calibrated"),
        every_s=every_s, deadline_s=every_s if deadline_days is None else deadline_days * DAY_S,
        device_hours_per_month=Estimate(devices * hours * 730 / 24 / every_days, {}, "calibrated"),
        memory_bytes={}, memory_available_bytes=None,
    )  # fmt: skip


# Money


@given(st.floats(1, 1e9), st.floats(0.0001, 1), st.integers(1, 200))
def test_an_annuity_repays_its_amount_exactly(usd, rate, periods):
    left = 1.0
    payment = annuity(usd, rate, periods) / usd
    paid = sum(payment / (1 + rate) ** n for n in range(1, periods + 1))
    assert paid == pytest.approx(left, rel=1e-6)


@given(st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0, 0.999))
def test_interest_costs_and_residual_value_saves(low, more, residual):
    cheap, dear = (capital_month(1000, Ownership(interest=i, residual=residual)) for i in (low, low + more))
    assert dear >= cheap * (1 - 1e-9)
    assert capital_month(1000, Ownership(interest=low, residual=0)) >= cheap * (1 - 1e-9)


def test_a_thing_that_keeps_its_value_costs_its_interest_alone():
    # 10 % of 1,200 USD a year, paid by the month: 1,200 × (1.1^(1/12) − 1)
    assert capital_month(1200, Ownership(interest=0.1, residual=1)) == pytest.approx(1200 * (1.1 ** (1 / 12) - 1))


@pytest.mark.parametrize(("rate", "periods"), [(0.1, 0), (0.1, -1), (-1, 12)])
def test_no_annuity_without_periods(rate, periods):
    with pytest.raises(CapacityError, match="allowed: above 0 periods"):
        annuity(1000, rate, periods)


# Tables


def test_shipped_purchase_prices_have_profile_source_and_day():
    known = {row.hardware for row in device_prices()}
    assert len(purchase_prices()) > 15
    for row in purchase_prices():
        assert row.hardware in known or catalogue.hardware(row.hardware)
        assert row.source
        assert row.usd_per_device > 500


def test_the_price_of_an_hour_by_hand(table):
    table(ROW, ROW.replace("shop,T4,1000,800,1500", "mall,T4,2000,,"))
    own = Ownership(years=1, residual=0, interest=0, host=500)
    found = purchase_range("t4", own, TODAY)
    # median 1,500 + host 500 over 12 months of 730 h; low 800 + 500, high 2,000 + 500
    assert found.usd_per_device_hour == pytest.approx(2000 / 12 / 730)
    assert (found.low, found.high) == (pytest.approx(1300 / 12 / 730), pytest.approx(2500 / 12 / 730))
    assert found.flags == ("only 1 source", "room, maintenance and energy apart")


def test_a_default_that_is_assumed_says_so(table):
    table(ROW)
    assert "assumed: years, residual, interest of ownership" in purchase_range("t4", Ownership(), TODAY).flags
    assert "assumed: interest of ownership" in purchase_range("t4", Ownership(years=3, residual=0.1), TODAY).flags


def test_purchase_tables_hold_no_hours_and_hours_no_purchases(table):
    table(ROW, name="purchase-mine.csv")
    hours = len(device_prices())
    assert purchase_prices()[0].provider == "shop"
    table(name="purchase.csv")
    assert (len(device_prices()), len(purchase_prices())) == (hours, 1)


def test_sellers_of_hours_do_not_narrow_what_is_bought(table):
    table(ROW)
    assert hourly("t4", Pricing.model_validate({"term": "purchase", "provider": "AWS", "region": "eu"}), TODAY)
    assert hourly("l4", Pricing.model_validate({"term": "purchase"}), TODAY) is None


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("1000", "0", "purchase.csv:2:4: usd_per_device: input should be greater than 0 (got '0')"),
        ("1000", "dear", "purchase.csv:2:4: usd_per_device: 'dear' is not a quantity"),
        ("800", "1200", "purchase.csv:2:5: low: low ≤ usd_per_device ≤ high must hold"),
        ("1500", "900", "purchase.csv:2:6: high: low ≤ usd_per_device ≤ high must hold"),
        ("invoice", "", "purchase.csv:2:8: source: is blank"),
    ],
)
def test_a_bad_purchase_row_is_named_by_file_line_and_column(table, old, new, said):
    table(ROW.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        purchase_prices()
    (problem,) = caught.value.problems
    assert said in str(problem)


# The scenario


def test_what_is_bought_pays_its_energy():
    assert Pricing.model_validate({"term": "purchase"}).energy == "separate"
    with pytest.raises(ValueError, match="term purchase pays for its energy"):
        Pricing.model_validate({"term": "purchase", "energy": "included"})


# The bill


BOUGHT = (
    "pricing.term=purchase",
    "pricing.ownership={years: 4, residual: 0, interest: 0, host: 0, support_share: 0.12}",
)


def lines(*settings: str, hardware: str = "h100-sxm-80gb"):
    option = plan((hardware,), settings).best
    return option, {line.name: line for line in option.cost.lines}


def test_owned_devices_are_paid_all_month_with_room_maintenance_and_energy():
    option, found = lines(*BOUGHT)
    pool = option.pools[0]
    serving = found[f"serving {pool.name}"]
    price = 30_000  # the middle of four offers: 27,500, 30,000, 30,000, 32,500
    assert serving.usd == pytest.approx(pool.devices * price / 48)
    assert serving.quantity == pool.devices * 730
    bought = sum(line.quantity for line in option.cost.lines if line.group == "devices") / 730
    assert bought == option.devices + max(job.devices for job in option.jobs)
    assert found["maintenance"].usd == pytest.approx(bought * price * 0.01)
    assert found["colocation"].usd == pytest.approx(bought * 0.7 * 1.8 * 200)
    assert found["electricity"].usd > 0


def test_autoscaling_saves_nothing_that_is_owned():
    scaled = f"serving.pools={{{plan().best.pools[0].name}: {{autoscaling: {{by: utilization}}}}}}"
    busy = "traffic.peak_rate=3000/s"
    rented, owned = lines(scaled, busy, hardware="t4")[0], lines(*BOUGHT, scaled, busy, hardware="t4")[0]
    assert rented.cost.lines[0].quantity < rented.devices * 730
    assert owned.cost.lines[0].quantity == owned.devices * 730


def test_the_band_of_slices_is_that_of_whole_devices():
    """Two quarters of a device are paid as one: the band holds the amount."""
    option, found = lines("serving.pools={online: {slices: 4}}", hardware="a100-sxm-80gb")
    line = found[f"serving {option.pools[0].name}"]
    assert option.pools[0].devices_per_replica == 0.25
    assert line.p10_usd < line.usd < line.p90_usd


def test_a_device_that_nobody_sells_has_a_line_without_a_price():
    option, _ = lines("pricing.term=purchase", hardware="a10g")
    assert not option.cost.complete
    assert {"maintenance", option.cost.lines[0].name} <= set(option.cost.missing)


# Devices that jobs share


def test_jobs_share_devices_one_after_another_while_there_is_time():
    found = shares([job("night", 8, 6, 1), job("week", 4, 84, 7)])  # busy 6/24 + 84/168 = 0.75
    assert found["night"].devices == found["week"].devices == 8
    assert found["night"].busy == pytest.approx(0.75)
    # device-time 8 × 6/24 = 2 and 4 × 0.5 = 2: half of eight devices each
    assert (found["night"].charged, found["week"].charged) == (pytest.approx(4), pytest.approx(4))


def test_jobs_that_do_not_fit_beside_each_other_buy_their_own():
    found = shares([job("night", 8, 18, 1), job("rush", 2, 12, 7, deadline_days=1)])  # 0.75 + 0.5 > 1
    assert (found["night"].devices, found["rush"].devices) == (8, 2)
    assert (found["night"].charged, found["rush"].charged) == (8, 2)


@given(st.lists(st.tuples(st.integers(1, 64), st.floats(0.01, 24)), min_size=1, max_size=8))
def test_what_jobs_are_charged_are_all_devices_that_are_bought(wanted):
    jobs = [job(f"j{number}", devices, hours, 1) for number, (devices, hours) in enumerate(wanted)]
    found = shares(jobs)
    groups = {item.jobs: item.devices for item in found.values()}
    assert sum(item.charged for item in found.values()) == pytest.approx(sum(groups.values()))
    assert max(groups.values()) == max(devices for devices, _ in wanted)
    assert all(item.busy <= 1 + 1e-9 for item in found.values())


def test_owned_jobs_pay_devices_not_hours():
    option, found = lines(*BOUGHT)
    jobs = [found[job.name] for job in option.jobs]
    assert sum(line.quantity for line in jobs) == pytest.approx(730 * max(job.devices for job in option.jobs))
    assert sum(line.quantity for line in jobs) > sum(float(job.device_hours_per_month.value) for job in option.jobs)
    assert all("owned ones, busy" in line.formula for line in jobs)


def test_energy_is_that_of_the_mean_load():
    """An l4 draws 72 W at its limit and 0.2 of that idle; half the peak's load is there on average."""
    idle_w, more_w = 14.4, 57.6
    rented, _ = lines("pricing.energy=separate", "training=[]", "batch=[]", hardware="l4")
    pool = rented.pools[0]
    worked = pool.replicas * pool.utilization * 0.5
    kwh = (pool.devices * idle_w + worked * more_w) * 0.73
    assert rented.cost.energy_kwh == pytest.approx(kwh * 1.15)
    owned, _ = lines("pricing.term=purchase", "training=[]", "batch=[]", hardware="l4")
    assert owned.cost.energy_kwh == pytest.approx(kwh * 1.15 * 1.8)


def test_a_job_on_idle_devices_of_serving_adds_its_work_to_their_energy():
    alone, _ = lines("training=[]", "batch=[]", hardware="l4")
    beside, _ = lines("jobs_on_idle_serving=true", hardware="l4")
    (done,) = beside.jobs
    assert float(done.device_hours_per_month.value) == 0
    assert done.free_device_hours_per_month > 0
    more_kwh = done.free_device_hours_per_month * 57.6 / 1000 * 1.15
    assert beside.cost.energy_kwh == pytest.approx(alone.cost.energy_kwh + more_kwh)


def test_a_rollout_takes_hours_of_owned_devices():
    once = replace(job("shadow", 8, 6, 30), kind="rollout")
    fleet = Fleet.of(catalogue.hardware("t4"), Pricing.model_validate({"term": "purchase"}), None, (), (once,))
    assert (fleet.owned_devices, fleet.shares) == (0, {})


def test_the_vectors_of_all_shards_are_stored():
    kept = []
    for sets in ((), ("serving.stages.retrieve.shards=4",)):
        scenario = catalogue.scenario("two-tower-retrieval", settings=sets)
        option = planner.plan(scenario, planner.inputs(scenario, today=TODAY), ("l4",)).best
        kept += [line.quantity for line in option.cost.lines if line.name == "weights, vectors, features"]
    assert kept[1] == pytest.approx(kept[0])


# Licenses and support


def test_licenses_and_support_are_billed_where_they_are_asked_for():
    _, none = lines()
    assert {"licenses", "support plan"}.isdisjoint(none)
    option, found = lines("pricing.software={}", "pricing.support={}")
    hours = sum(line.quantity for line in option.cost.lines if line.group == "devices")
    assert (found["licenses"].quantity, found["licenses"].usd) == (hours, hours * 1.0)
    base = sum(line.usd for line in option.cost.lines if line.group in {"devices", "storage", "network"})
    assert found["support plan"].usd == pytest.approx(0.07 * base)
    assert option.cost.usd == pytest.approx(sum(line.usd for line in option.cost.lines))


def test_prices_of_the_scenario_go_before_those_of_the_table():
    asked = ("pricing.software={per_device_hour: 2 USD/h}", "pricing.support={share: 3 %}")
    _, found = lines(*asked)
    assert (found["licenses"].unit_price_usd, found["licenses"].source) == (2, "scenario")
    assert found["support plan"].unit_price_usd == 0.03
    _, found = lines("pricing.software={per_month: 500 USD/month}")
    assert (found["licenses"].quantity, found["licenses"].usd) == (1, 500)


def test_a_license_without_a_rate_and_support_of_an_unknown_bill_are_lines_without_a_price():
    asked = catalogue.scenario("cross-encoder-rerank", settings=("pricing.software={}", "pricing.support={}"))
    inputs = planner.inputs(asked, today=TODAY)
    bare = replace(inputs, rates=inputs.rates.model_copy(update={"software": None}))
    assert planner.plan(asked, bare, ["t4"]).best.cost.missing == ("licenses",)
    assert {"licenses", "support plan"} & set(planner.plan(asked, bare, ["a100-pcie-40gb"]).best.cost.missing)


def test_more_host_costs_more():
    assert installed_usd(1000, Ownership(host_share=1)) == installed_usd(1000, Ownership(host=1000)) == 2000
