"""Quantities: every unit against pint, text and back, dollars, and errors that name an example."""

from __future__ import annotations

import math
import re

import pint
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capacity.errors import UnitError
from capacity.units import DIMENSIONS, EXAMPLES, parse, text, usd

# Against pint: a second opinion on every conversion, in its own spelling

REGISTRY = pint.UnitRegistry()
for definition in (
    "FLOP = [floating_point_operation]", "OP = FLOP", "USD = [money]", "item = [item]", "rps = item / second",
    "month = 730 hour", "year = 8760 hour",  # as budgets count them; pint's own follow the calendar
):  # fmt: skip
    REGISTRY.define(definition)
SI = {
    "fraction": "", "seconds": "s", "bytes": "byte", "bytes/s": "byte/s", "FLOP": "FLOP", "FLOP/s": "FLOP/s",
    "hertz": "1/s", "per second": "item/s", "watts": "W", "joules": "J", "usd": "USD", "usd/hour": "USD/h",
    "usd/month": "USD/month", "usd/kWh": "USD/kWh", "usd/kW-month": "USD/kW/month",
    "usd/GB": "USD/GB", "usd/GB-month": "USD/GB/month", "kg/kWh": "kg/kWh",
}  # fmt: skip
COUNTS = {"": 1, "k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}
"""Shorthand for how many; pint takes these letters for kelvin, meter, byte and tesla."""
UNITS = [(dimension, unit) for dimension, units in DIMENSIONS.items() if dimension != "count" for unit in units]


def in_pint(unit: str, dimension: str) -> pint.Quantity:
    """Return one `unit` as pint knows it."""
    number = 1.0
    if dimension == "per second" and unit != "rps":
        top, _, bottom = unit.partition("/")
        number, unit = COUNTS.get(top, 1), f"item/{bottom}"
    unit = unit.replace("$", "USD").replace("%", "percent").replace("-month", "/month").replace("FLOPS", "FLOP/s")
    return REGISTRY.Quantity(number, re.sub(r"\bK(?=B|W|J|Hz|OP|FLOP)", "k", unit))


@pytest.mark.parametrize(("dimension", "unit"), UNITS)
def test_a_unit_is_what_pint_says(dimension, unit):
    expected = in_pint(unit, dimension).to(SI[dimension]).magnitude
    assert parse(f"7.5 {unit}", dimension) == pytest.approx(7.5 * expected, rel=1e-12)


def test_counts_have_their_own_letters():
    assert DIMENSIONS["count"] == COUNTS


def test_every_dimension_is_compared():
    assert set(SI) | {"count"} == set(DIMENSIONS) == set(EXAMPLES)


def test_a_gibibyte_is_seven_percent_more_than_a_gigabyte():
    assert parse("80 GiB", "bytes") == 80 * 2**30
    assert parse("80 GB", "bytes") == 80e9
    assert parse("1 KiB", "bytes") == 1024
    assert parse("1 kB", "bytes") == parse("1 KB", "bytes") == 1000


# Spelling


@pytest.mark.parametrize(
    "spelling",
    [312e12, 312_000_000_000_000, "312e12", "312 TFLOP/s", "312TFLOP/s", "312 TFLOPS", "312 TOP/s", "312,000 GFLOP/s",
     "312_000 GFLOP/s", "0.312 PFLOP/s", "  312  T FLOP / s ", "+3.12e2 TFLOP/s", "3.12E+14"],
)  # fmt: skip
def test_one_rate_in_many_spellings(spelling):
    assert parse(spelling, "FLOP/s") == pytest.approx(312e12, rel=1e-15)


@pytest.mark.parametrize(
    ("said", "dimension", "meant"),
    [
        ("$25,000", "usd", 25_000), ("25 kUSD", "usd", 25_000), ("-3", "count", -3), (".5", "fraction", 0.5),
        ("5.", "count", 5), ("30 %", "fraction", 0.3), ("2 M/d", "per second", 2e6 / 86400),
        ("12/h", "per second", 12 / 3600), ("1 week", "seconds", 604_800), ("1 month", "seconds", 2_628_000),
        ("365 days", "seconds", 31_536_000),
        ("8760 USD/year", "usd/hour", 1), ("12000 USD/year", "usd/month", 1000), ("100 USD/MWh", "usd/kWh", 0.1),
        ("370 g/kWh", "kg/kWh", 0.37), ("0 s", "seconds", 0),
    ],
)  # fmt: skip
def test_what_a_quantity_means(said, dimension, meant):
    assert parse(said, dimension) == pytest.approx(meant, rel=1e-12)


@pytest.mark.parametrize(
    ("value", "dimension"),
    [
        (True, "count"), (None, "seconds"), ([1], "bytes"), ({"a": 1}, "bytes"), ("", "bytes"), ("GB", "bytes"),
        ("80 GB/s", "bytes"), ("80 GB", "bytes/s"), ("80 gb", "bytes"), ("100 banana", "bytes"), ("1 2", "count"),
        ("1e", "count"), ("0x10", "count"), ("--1", "count"), ("1..2", "count"), ("nan", "count"), ("inf", "count"),
        (math.nan, "count"), (math.inf, "seconds"), (-math.inf, "seconds"), ("1e400", "seconds"), ("1e308 TB", "bytes"),
        ("5" + " " * 200 + "GB", "bytes"), ("1" + "0" * 300, "bytes"), ("9" * 5_000_000, "bytes"), ("²", "count"),
    ],
)  # fmt: skip
def test_what_is_no_quantity_is_refused_with_an_example(value, dimension):
    with pytest.raises(UnitError) as caught:
        parse(value, dimension)
    assert EXAMPLES[dimension] in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_the_examples_of_errors_are_quantities(dimension):
    for example in EXAMPLES[dimension].split(" or "):
        assert parse(example, dimension) > 0


# Text for people, and back

SIZES = st.floats(min_value=1e-9, max_value=1e18) | st.sampled_from([0.0])
SPOKEN = ("bytes", "bytes/s", "FLOP/s", "FLOP", "seconds", "count", "per second", "watts", "hertz", "fraction")


@pytest.mark.parametrize("dimension", SPOKEN)
@given(value=SIZES, sign=st.sampled_from([1, -1]), digits=st.integers(2, 6))
def test_text_reads_back_as_the_value_within_its_digits(dimension, value, sign, digits):
    shown = text(sign * value, dimension, digits)
    assert parse(shown, dimension) == pytest.approx(sign * value, rel=0.51 * 10 ** (1 - digits))
    assert len(shown) < 30


@given(value=st.floats(min_value=1e-6, max_value=1e15))
def test_dollars_read_back_within_half_a_cent_or_dollar(value):
    within = {"rel": 0.005} if value < 0.1 else {"abs": 0.0051} if value < 100 else {"abs": 0.51}
    assert parse(usd(value), "usd") == pytest.approx(value, **within)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "$0.00"), (0.00002, "$2e-05"), (0.0123, "$0.0123"), (0.1, "$0.10"), (12.345, "$12.35"), (99.999, "$100.00"),
        (100, "$100"), (123_456.7, "$123,457"), (-5, "-$5.00"), (-1234, "-$1,234"), (2e18, "$2e+18"),
    ],
)  # fmt: skip
def test_dollars_as_budgets_show_them(value, shown):
    assert usd(value) == shown


@pytest.mark.parametrize(
    ("value", "dimension", "shown"),
    [
        (0.0123, "seconds", "12.3 ms"), (90, "seconds", "1.5 min"), (59.99, "seconds", "60 s"), (0, "seconds", "0 s"),
        (2.039e12, "bytes/s", "2.04 TB/s"), (80e9, "bytes", "80 GB"), (312e12, "FLOP/s", "312 TFLOP/s"),
        (9_999, "count", "9,999"), (24_900, "count", "24.9 k"), (1e9, "count", "1 B"), (3000, "per second", "3,000 /s"),
        (0.5, "per second", "30 /min"), (0.25, "fraction", "25 %"), (49_400, "whole", "49,400"), (70, "watts", "70 W"),
        (1.41e9, "hertz", "1.41 GHz"), (math.inf, "seconds", "unlimited"), (math.nan, "seconds", "unknown"),
        (1e-300, "seconds", "1e-291 ns"), (1e300, "bytes", "1e+285 PB"), (1234.5, "usd", "$1,234"),
    ],
)  # fmt: skip
def test_text_as_a_person_reads_it(value, dimension, shown):
    assert text(value, dimension) == shown


def test_text_of_a_dimension_without_units_is_refused():
    with pytest.raises(UnitError, match="bananas"):
        text(1.0, "bananas")
