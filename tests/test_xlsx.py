"""The workbook: its bills compute, from named assumptions, the numbers of the plan; texts stay texts."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from report_plans import TODAY, infeasible, nothing, plan, refused, unpriced
from workbooks import Workbook

from capacity import catalogue
from capacity.commands import planning
from capacity.errors import InputError
from capacity.money import lines
from capacity.money.prices import price_range
from capacity.report import assumptions, figures, xlsx
from capacity.report.cells import Missing

CENT = 0.005


def scenario(*settings):
    return catalogue.scenario("cross-encoder-rerank", settings=settings)


def book(given=None):
    return Workbook.of(xlsx.render(given or plan(), scenario()))


def changed(line_changes=None, pool_changes=None):
    """The plan with its first option's first pool and line replaced."""
    first, *others = plan().options
    pool = replace(first.pools[0], **(pool_changes or {}))
    line = replace(first.cost.lines[0], **(line_changes or {}))
    cost = replace(first.cost, lines=(line, *first.cost.lines[1:]))
    return replace(plan(), options=(replace(first, pools=(pool,), cost=cost), *others))


# Formulas


@pytest.mark.parametrize("settings", [(), ("pricing.energy=separate",), ("network.cross_zone_share=0",)])
def test_every_formula_computes_the_value_that_is_kept_beside_it(settings):
    given = plan(("t4", "a100-sxm-80gb"), settings)
    found = Workbook.of(xlsx.render(given, scenario(*settings)))
    formulas = list(found.formulas())
    for sheet, place, cell in formulas:
        assert found.computed(sheet, place) == pytest.approx(cell.value, rel=1e-12), (sheet, place, cell.formula)
    lines = sum(len(option.cost.lines) for option in given.options)
    assert len(formulas) >= 4 * lines


def test_bills_computed_anew_are_those_of_the_plan_to_the_cent():
    found = book()
    for option in plan().options:
        sheet = f"Bill {option.hardware}"
        rows = found.rows(sheet)
        heads = [cell.value for (row, _), cell in found.sheets[sheet].items() if row == 1]
        for number, line in enumerate([*option.cost.lines, option.cost]):
            for head, key in (("Cost", "usd"), ("P10", "p10_usd"), ("P90", "p90_usd")):
                column = heads.index(f"{head} [USD/month]") + 1
                assert rows[number][f"{head} [USD/month]"].formula
                computed = found.computed(sheet, (number + 2, column))
                assert computed == pytest.approx(getattr(line, key), abs=CENT)


def test_prices_are_names_and_amounts_are_quantity_times_price():
    for row in book().rows("Bill t4")[: len(plan().options[1].cost.lines)]:
        assert re.fullmatch(r"price_\w+", row["Price [USD/unit]"].formula)
        assert re.fullmatch(r"C\d+\*E\d+", row["Cost [USD/month]"].formula)


def test_another_price_reaches_bill_and_comparison():
    found = book()
    option = next(option for option in plan().options if option.hardware == "t4")
    devices = sum(line.usd for line in option.cost.lines if line.group == "devices")
    twice = {"price_t4": 2 * option.cost.lines[0].unit_price_usd}
    rank = plan().options.index(option)
    heads = [cell.value for (row, _), cell in found.sheets["Options"].items() if row == 1]
    column = heads.index("Cost [USD/month]") + 1
    new = found.computed("Options", (rank + 2, column), twice)
    assert new == pytest.approx(option.cost.usd + devices, abs=CENT)
    share = found.computed("Options", (rank + 2, heads.index("Cost against the best [%]") + 1), twice)
    assert share == pytest.approx(new / plan().best.cost.usd - 1)


def test_one_more_spare_is_730_more_device_hours():
    found = book()
    option = plan().options[0]
    name = f"spare_{assumptions.slug(option.hardware)}_online"
    more = found.computed(f"Bill {option.hardware}", (2, 3), {name: option.pools[0].spare_replicas + 1.0})
    assert more == pytest.approx(option.cost.lines[0].quantity + 730)


def test_more_requests_mean_more_logs_egress_and_crossings_and_no_other_fleet():
    found = book()
    option = plan().options[0]
    twice = {"peak_rate_per_s": 2 * plan().peak_rate}
    for number, line in enumerate(option.cost.lines):
        new = found.computed(f"Bill {option.hardware}", (number + 2, 3), twice)
        moved = line.name in {"request logs", "egress", "cross-zone"}
        assert new == pytest.approx(line.quantity * (2 if moved else 1)), line.name


def test_quantities_follow_from_names_wherever_the_bill_counts_so():
    found = assumptions.collected(plan(), scenario()).quantities
    for rank, option in enumerate(plan().options):
        plain = {line.name for place, line in enumerate(option.cost.lines) if (rank, place) not in found}
        assert plain == {"checkpoints", "weights, vectors, features"}


def test_an_autoscaled_pool_pays_its_mean_replicas():
    given = changed({"quantity": (2.5 + 1) * 730}, {"paid_replicas": 2.5})
    found = assumptions.collected(given, scenario())
    name = f"replicas_{assumptions.slug(given.options[0].hardware)}_online"
    (replicas,) = [row for row in found.rows if row.name == name]
    assert replicas.value == 2.5
    assert replicas.label.startswith("Replicas paid on average")


def test_slices_are_paid_as_whole_devices():
    pool = {"devices_per_replica": 0.4}
    devices = replace(plan().options[0].pools[0], **pool).devices
    found = assumptions.collected(changed({"quantity": devices * 730.0}, pool), scenario())
    assert found.quantities[0, 0].startswith("ROUNDUP((")


def test_a_quantity_that_does_not_follow_from_the_fleet_stays_a_number():
    assert (0, 0) not in assumptions.collected(changed({"quantity": 12345.0}), scenario()).quantities


# Assumptions


def test_ranges_of_rates_hold_the_rate_and_those_of_devices_are_as_the_bill_draws_them():
    rows = {row.name: row for row in assumptions.collected(plan(), scenario()).rows}
    for name in ("price_egress", "price_engineers", "price_t4"):
        assert rows[name].p10 <= rows[name].value <= rows[name].p90 * (1 + 1e-12)
    offers = price_range("t4", "on-demand", today=TODAY)
    drawn = lines.Draws().price("device", offers.low, offers.usd_per_device_hour, offers.high)
    low, high = np.quantile(drawn, [0.1, 0.9])
    assert rows["price_t4"].p10 == pytest.approx(low, rel=0.03)
    assert rows["price_t4"].p90 == pytest.approx(high, rel=0.03)


def test_a_price_that_the_tables_do_not_hold_has_no_range():
    rows = {row.name: row for row in assumptions.collected(changed({"unit_price_usd": 77.0}), scenario()).rows}
    (row,) = [row for row in rows.values() if row.value == 77.0]
    assert isinstance(row.p10, Missing)


def test_two_numbers_never_share_a_name():
    found = assumptions.collected(changed({"unit_price_usd": 77.0}), scenario())
    best = plan().best
    name = f"price_{assumptions.slug(best.hardware)}"
    values = {row.name: row.value for row in found.rows}
    assert values[name] == 77.0
    assert values[f"{name}_2"] == best.cost.lines[1].unit_price_usd
    assert found.prices[0, 1] == f"{name}_2"


def test_settings_stand_on_the_sheet_and_say_what_they_are():
    found = book().sheets["Assumptions"]
    told = {found[row, 2].value: found[row, 3].value for row, column in found if column == 3 and (row, 2) in found}
    assert told["Term"] == "on-demand"
    assert told["Headroom over the peak"] == scenario().resilience.headroom
    assert told["Hours of a month"] == 730


# Texts


@pytest.mark.parametrize("attack", ["=cmd|' /C calc'!A0", "+1+1", "@SUM(A1)", "-2", "{=1+1}", "http://x.example"])
def test_texts_are_never_formulas(attack):
    first, *others = plan().options
    cost = replace(
        first.cost,
        lines=tuple(replace(line, source=attack, formula=attack, flags=(attack,)) for line in first.cost.lines),
    )
    evil = replace(plan(), title=attack, changes=(attack,), options=(replace(first, name=attack, cost=cost), *others))
    content = xlsx.render(evil, scenario())
    found = Workbook.of(content)
    formulas = {re.sub(r"^(price_\w+)_2$", r"\1", cell.formula) for _, _, cell in found.formulas()}
    assert formulas == {cell.formula for _, _, cell in book().formulas()}
    assert found.sheets["Answer"][1, 2].value == attack
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert not any(b"<hyperlink" in archive.read(name) for name in archive.namelist())


def test_a_text_too_long_for_a_cell_is_cut_and_not_lost():
    kept = book(replace(plan(), title="x" * 40_000)).sheets["Answer"][1, 2].value
    assert len(kept) == 32_767
    assert kept.endswith("…")


def test_sheets_have_names_that_excel_takes_and_no_two_the_same():
    first = plan().options[0]
    ids = ("local-" + "x" * 40, "local-" + "X" * 40, "a[b]:c*d?e/f\\g'h", "t4")
    names = xlsx._bill_names([replace(first, hardware=name) for name in ids])
    assert len({name.lower() for name in names}) == len(ids)
    assert all(len(name) <= 31 and not re.search(r"[\[\]:*?/\\']", name) for name in names)
    assert names[3] == "Bill t4"


def test_numbers_have_their_unit_in_the_header():
    found = book()
    (job,) = [row for row in found.rows("Jobs") if row["Profile"].value == plan().best.hardware]
    assert job["Duration [s]"].value == pytest.approx(float(plan().best.jobs[0].duration.value))
    memory = [row["Size on a device [bytes]"].value for row in found.rows("Memory") if row["Profile"].value == "t4"]
    t4 = next(option for option in plan().options if option.hardware == "t4")
    available = sum(part.memory_available_bytes for part in (*t4.pools, *t4.jobs))
    assert sum(memory) == pytest.approx(available)


# Gaps


def test_a_missing_price_is_a_word_and_never_zero():
    found = book(unpriced())
    devices = found.rows("Bill a100-pcie-40gb")[0]
    for head in ("Price [USD/unit]", "Cost [USD/month]", "P10 [USD/month]"):
        assert (devices[head].value, devices[head].formula) == (figures.NO_PRICE, None)
    total = found.rows("Bill a100-pcie-40gb")[len(unpriced().options[0].cost.lines)]
    assert total["Cost [USD/month]"].value == figures.NO_PRICE
    assert found.rows("Options")[0]["Cost [USD/month]"].value == figures.NO_PRICE


def test_a_rate_without_a_price_is_left_out_of_the_sum_and_named():
    first = plan().options[0]
    unknown = {"unit_price_usd": None, "usd": None, "p10_usd": None, "p90_usd": None}
    lines = (*first.cost.lines[:-1], replace(first.cost.lines[-1], **unknown))
    usd = sum(line.usd for line in lines[:-1])
    cost = replace(first.cost, lines=lines, usd=usd, missing=(lines[-1].name,))
    found = book(replace(plan(), options=(replace(first, cost=cost),)))
    sheet = f"Bill {first.hardware}"
    assert found.computed(sheet, (len(lines) + 2, 6)) == pytest.approx(usd, abs=CENT)
    assert found.rows(sheet)[len(lines)]["Line"].value == f"Total without {lines[-1].name} (no price)"


@pytest.mark.parametrize("make", [infeasible, refused, nothing])
def test_a_plan_without_an_answer_has_a_workbook_without_bills(make):
    found = book(make())
    assert list(found.sheets) == ["Answer", "Assumptions", "Options", "Jobs", "Memory"]
    assert found.sheets["Answer"][2, 2].value


# Files


def test_the_same_plan_gives_the_same_bytes_dated_by_the_plan():
    content = xlsx.render(plan(), scenario())
    assert content == xlsx.render(plan(), scenario())
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert b"2026-11-22T00:00:00Z</dcterms:created>" in archive.read("docProps/core.xml")
        assert {part.date_time for part in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def request():
    return planning.Request.of("cross-encoder-rerank", ["t4", "a100-sxm-80gb"], None, None, None, TODAY.isoformat())


def test_the_command_writes_the_workbook_and_never_to_the_screen(tmp_path):
    target = tmp_path / "plan.xlsx"
    assert planning.write_report(request(), "xlsx", target) == 0
    assert target.read_bytes() == xlsx.render(plan(), scenario())
    with pytest.raises(InputError, match="name a file with --output"):
        planning.write_report(request(), "xlsx", None)


@pytest.mark.skipif(
    shutil.which("soffice") is None, reason="LibreOffice is not installed: apt-get install libreoffice-calc-nogui"
)
def test_libreoffice_computes_the_same(tmp_path):
    target = tmp_path / "plan.xlsx"
    with zipfile.ZipFile(io.BytesIO(xlsx.render(plan(), scenario()))) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():  # without the values that are kept LibreOffice has to compute
            new.writestr(name, re.sub(rb"</f><v>[^<]*</v>", b"</f>", old.read(name)))
    folder = tmp_path / "out"
    profile = f"-env:UserInstallation={(tmp_path / 'profile').as_uri()}"
    command = ["soffice", profile, "--headless", "--convert-to", "xlsx", "--outdir", str(folder), str(target)]
    subprocess.run(command, check=True, capture_output=True, timeout=180)
    found = Workbook.of((folder / "plan.xlsx").read_bytes())
    for option in plan().options:
        total = found.sheets[f"Bill {option.hardware}"][len(option.cost.lines) + 2, 6]
        assert total.value == pytest.approx(option.cost.usd, abs=CENT)


def test_the_dashboard_hands_out_the_same_bytes():
    from capacity import catalogue, planner
    from capacity.pages import cached
    from capacity.pages.state import View
    from capacity.report import focus, xlsx

    view = View(scenario="cross-encoder-rerank", hardware=("l4", "t4"))
    scenario = catalogue.scenario("cross-encoder-rerank")
    plan = planner.plan_scenario(scenario, ["l4", "t4"])
    assert cached.report(view, "xlsx") == xlsx.render(plan, scenario)
    assert cached.report(view, "focus") == focus.render(plan)
