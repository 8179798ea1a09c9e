from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from capacity import documents
from capacity.catalogue import rates
from capacity.errors import InputError, UnknownNameError
from capacity.money.price_tables import device_prices
from capacity.money.prices import price_range
from capacity.spec.prices import first_day

TODAY = date(2026, 11, 22)
HEADER = "hardware,provider,sku,devices,region,term,usd_per_device_hour,date,source,quality,note"
GOOD = "t4,AWS,g4dn.xlarge,1,us-east-1,on-demand,0.5,2026-05,list,published,"
PRICE, DATE = "0.5", "2026-05"


def row(
    usd="1",
    *,
    provider="AWS",
    sku="s",
    region="us-east-1",
    term="on-demand",
    day="2026-05",
    source="a",
    quality="secondary",
):
    return f"t4,{provider},{sku},1,{region},{term},{usd},{day},{source},{quality},"


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that puts lines in place of the shipped devices.csv."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAPACITY_PATH", str(tmp_path))
    folder = tmp_path / "prices"
    folder.mkdir()

    def write(*lines: str, name: str = "devices.csv", header: str = HEADER) -> Path:
        path = folder / name
        path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
        return path

    return write


def problems_of(call=device_prices) -> list[str]:
    with pytest.raises(InputError) as caught:
        call()
    return [str(problem) for problem in caught.value.problems]


# What ships


def test_every_shipped_price_belongs_to_a_hardware_profile():
    unknown = {price.hardware for price in device_prices()} - documents.catalogue("hardware_profiles").keys()
    assert not unknown


def test_no_shipped_price_is_zero_undated_or_without_a_source():
    prices = device_prices()
    assert len(prices) > 250
    assert all(price.usd_per_device_hour > 0 and price.source and first_day(price.date) <= TODAY for price in prices)


def test_no_shipped_row_stands_there_twice():
    prices = device_prices()
    assert len({price.model_dump_json() for price in prices}) == len(prices)


@pytest.mark.parametrize("name", ["rates-us-east", "rates-us-west", "rates-eu-west"])
def test_shipped_rates_hold_every_line_with_its_range(name):
    found = rates(name)
    assert found.id == name
    for line in type(found).model_fields.keys() - {"id", "region"}:
        quote = getattr(found, line)
        assert quote is not None, line
        assert 0 < quote.low <= quote.value <= quote.high, line


def test_oregon_hydro_is_cleaner_than_virginia():
    assert rates("rates-us-west").grid_carbon.value < 0.5 * rates("rates-us-east").grid_carbon.value


def test_unknown_rates_name_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean rates-us-east"):
        rates("rates-us-eats")


def test_shipped_h100_spread_is_the_published_one():
    # RunPod, Hyperstack and OpenRelay rent an H100 SXM at 2.60 to 4.00 USD/h, Azure at 12.29
    found = price_range("h100-sxm-80gb", "on-demand", today=TODAY)
    assert found is not None
    assert (found.low, found.high) == (2.6, 12.29)
    assert any("3 contradicted" in flag for flag in found.flags)
    assert all(price.quality != "contradicted" for price in found.rows)


def test_shipped_tpu_v4_spot_is_flagged():
    found = price_range("tpu-v4", "spot", today=TODAY)
    assert found is not None
    assert "spot above on-demand" in found.flags


# Median, range, flags


def test_median_low_and_high_by_hand(table):
    table(*(row(usd, provider=by, source=by) for by, usd in (("a", "1"), ("b", "2"), ("c", "7"), ("d", "3"))))
    found = price_range("t4", "on-demand", today=TODAY)
    assert found is not None
    assert (found.low, found.usd_per_device_hour, found.high) == (1, 2.5, 7)  # (2 + 3) / 2
    assert [price.usd_per_device_hour for price in found.rows] == [1, 2, 3, 7]
    assert (found.region, found.flags) == ("any", ())


def test_of_one_seller_s_instances_in_a_region_the_cheapest_counts(table):
    table(
        row("1", sku="small"), row("4", sku="large"), row("2", sku="large", region="us-east-2"), row("9", provider="B"),
        row("0.01", sku="placeholder"),
    )  # fmt: skip
    found = price_range("t4", "on-demand", today=TODAY)
    assert [price.usd_per_device_hour for price in found.rows] == [1, 2, 9]
    assert found.usd_per_device_hour == 2


def test_no_price_is_none_never_zero(table):
    table(row(), row(sku="b", term="spot", quality="contradicted"))
    assert price_range("a100-sxm-80gb", "on-demand", today=TODAY) is None
    assert price_range("t4", "3-year", today=TODAY) is None
    assert price_range("t4", "spot", today=TODAY) is None  # contradicted rows are no price
    assert price_range("t4", "on-demand", "GCP", today=TODAY) is None
    assert price_range("t4", "on-demand", region="eu-west", today=TODAY) is None


def test_provider_and_region_narrow_the_offers(table):
    table(
        row("1"),
        row("2", region="us-east-2"),
        row("4", region="eu-west-1"),
        row("8", provider="GCP", region="us-east4"),
        row("16", provider="RunPod", region="any"),
    )

    def prices(provider=None, region=None):
        found = price_range("t4", "on-demand", provider, region, today=TODAY)
        return [price.usd_per_device_hour for price in found.rows]

    assert prices("aws") == [1, 2, 4]
    assert prices(region="us-east") == [1, 2, 8, 16]
    assert prices("AWS", "us-east-1") == [1]


def test_marketplace_and_assumed_count_only_when_nothing_better_does(table):
    market, guess = row("1", sku="m", quality="marketplace"), row("2", sku="g", quality="assumed")
    table(market)
    assert "marketplace offer only" in price_range("t4", "on-demand", today=TODAY).flags
    table(market, guess)
    found = price_range("t4", "on-demand", today=TODAY)
    assert found.high == found.low == 2
    assert {"assumed price only", "left out: 1 marketplace"} <= set(found.flags)
    table(market, guess, row("5", sku="p", quality="published"))
    found = price_range("t4", "on-demand", today=TODAY)
    assert found.high == found.low == 5
    assert found.flags == ("left out: 1 assumed, 1 marketplace", "only 1 source")


def test_the_newest_row_of_an_offer_counts_alone(table):
    table(row("12", day="2023"), row("5", day="2026-05"), row("9", day="2024", region="us-west-2"))
    found = price_range("t4", "on-demand", today=TODAY)
    assert [price.usd_per_device_hour for price in found.rows] == [5, 9]


@pytest.mark.parametrize(
    ("days", "flag"),
    [
        (("2024-03", "2023"), "older than a year (2024-03)"),
        (("2025-11-21", "2025"), "older than a year (2025-11-21)"),
        (("2025-11-22", "2025"), "1 of 2 rows older than a year"),
        (("2025-11", "2026"), "1 of 2 rows older than a year"),  # a month may mean its first day
    ],
)
def test_old_prices_say_so(table, days, flag):
    table(*(row(provider=str(number), day=day) for number, day in enumerate(days)))
    assert flag in price_range("t4", "on-demand", today=TODAY).flags


def test_single_source_and_spot_above_on_demand_are_flagged(table):
    table(row("1"), row("3", term="spot"))
    assert price_range("t4", "spot", today=TODAY).flags == ("only 1 source", "spot above on-demand")
    assert price_range("t4", "on-demand", today=TODAY).flags == ("only 1 source",)


# Tables


def test_own_table_adds_rows_and_comes_first(table):
    shipped = len(device_prices())
    table("t4,Own,rack,8,here,3-year,0.11 USD/h,2026-10-01,invoice 7,published,", name="own.csv")
    prices = device_prices()
    assert len(prices) == shipped + 1
    assert (prices[0].provider, prices[0].usd_per_device_hour) == ("Own", 0.11)


def test_own_devices_csv_replaces_the_shipped_one(table):
    table(GOOD)
    assert len(device_prices()) == 1


def test_a_changed_table_is_read_again(table):
    table(GOOD)
    assert len(device_prices()) == 1
    table(GOOD, GOOD.replace("AWS", "GCP"))
    assert len(device_prices()) == 2


def test_optional_note_blank_lines_and_byte_order_mark(table):
    path = table()
    path.write_bytes(
        b"\xef\xbb\xbf" + HEADER.removesuffix(",note").encode() + b"\r\n\r\n" + GOOD[:-1].encode() + b"\r\n"
    )
    assert device_prices()[0].note == ""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (PRICE, "-1", "devices.csv:2:7: usd_per_device_hour: input should be greater than 0 (got '-1')"),
        (PRICE, "0", "devices.csv:2:7: usd_per_device_hour: input should be greater than 0 (got '0')"),
        (PRICE, "cheap", "devices.csv:2:7: usd_per_device_hour: 'cheap' is not a quantity"),
        (PRICE, "nan", "devices.csv:2:7: usd_per_device_hour: 'nan' is not a quantity"),
        (PRICE, "1e999", "devices.csv:2:7: usd_per_device_hour: '1e999' is not a finite number"),
        (PRICE, "3 EUR/h", "devices.csv:2:7: usd_per_device_hour: '3 EUR/h' has no unit of usd/hour"),
        (PRICE, "", "devices.csv:2:7: usd_per_device_hour: is blank"),
        (DATE, "May 2026", "devices.csv:2:8: date: string should match pattern"),
        (DATE, "2026-02-30", "devices.csv:2:8: date: there is no such day"),
        (DATE, "", "devices.csv:2:8: date: is blank"),
        (",1,", ",0,", "devices.csv:2:4: devices: input should be greater than or equal to 1 (got '0')"),
        (",1,", ",1.5,", "devices.csv:2:4: devices: input should be a valid integer"),
        ("on-demand", "monthly", "devices.csv:2:6: term: input should be 'on-demand', 'spot', '1-year' or '3-year'"),
        ("t4", "T4 GPU", "devices.csv:2:1: hardware: string should match pattern"),
        (",published,", "", "devices.csv:2:9: has 9 fields, expected 11"),
        ("list", '"list', "devices.csv:2:1: is not a line of CSV"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_column(table, old, new, said):
    table(GOOD.replace(old, new, 1))
    (problem,) = problems_of()
    assert said in problem


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (HEADER.replace("usd_per_device_hour,", ""), "devices.csv:1:11: missing column 'usd_per_device_hour'"),
        (HEADER.replace("region", "regoin"), "devices.csv:1:5: unknown column 'regoin'; did you mean region?"),
        (HEADER + ",note", "devices.csv:1:12: duplicate column 'note'"),
    ],
)
def test_a_bad_header_is_named(table, header, said):
    table(GOOD, header=header)
    assert any(said in problem for problem in problems_of())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "devices.csv: is empty; its first line must name the columns date, source"),
        (b"\n \n", "devices.csv: is empty"),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "devices.csv: is not UTF-8 text (byte 0)"),
        (b"a\x00b\n", "devices.csv:1:1: "),
    ],
)
def test_a_file_that_is_no_table_is_one_error(table, content, said):
    table().write_bytes(content)
    assert any(said in problem for problem in problems_of())


def test_every_problem_of_every_table_comes_at_once(table):
    table(GOOD, GOOD.replace(PRICE, "-1").replace(DATE, "soon"), GOOD, GOOD.replace("published", "good"))
    table(GOOD.replace("t4", ""), name="own.csv")
    found = problems_of()
    assert [problem.split("prices/")[1].split(": ")[0] for problem in found] == [
        "devices.csv:3:7",
        "devices.csv:3:8",
        "devices.csv:5:10",
        "own.csv:2:1",
    ]


def test_a_quoted_note_over_two_lines_keeps_the_count(table):
    table(GOOD + '"first\nsecond"', GOOD.replace(PRICE, "no"))
    assert ["devices.csv:4:7" in problem for problem in problems_of()] == [True]


def test_a_table_that_vanished_says_so(table, tmp_path):
    (tmp_path / "prices" / "gone.csv").symlink_to(tmp_path / "nowhere.csv")
    assert any("gone.csv: no such file" in problem for problem in problems_of())


def test_prices_are_refused_with_a_unit_of_something_else(table):
    table(GOOD.replace(PRICE, "0.5 USD/GB"))
    (problem,) = problems_of()
    assert "write a usd/hour quantity such as 3.43 USD/h" in problem
