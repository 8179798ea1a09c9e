"""Offers one by one, and catalogs of other tools taken in as a table: mapped, checked, or refused with a reason."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from command_line import capacity

from capacity.errors import InputError, UnknownNameError
from capacity.money import catalogs, offers
from capacity.money.price_tables import device_prices
from capacity.spec.accelerators import UnsaidError, accelerator
from capacity.spec.prices import DevicePrice

TODAY = date(2026, 11, 22)
WISH = catalogs.Wish(provider="AWS", date="2026-11-20", source="a catalog")
SKYPILOT = (
    "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,GpuInfo,Price,SpotPrice,Region,AvailabilityZone"
)
GPUHUNT = "instance_name,location,price,cpu,memory,gpu_count,gpu_name,gpu_memory,spot,disk_size"


def taken(*lines: str, header: str = SKYPILOT, prices: tuple[DevicePrice, ...] | None = None, wish=WISH):
    text = "\n".join([header, *lines]) + "\n"
    return catalogs.imported(text, "catalog.csv", wish, device_prices() if prices is None else prices)


def offer(usd: float, **changes) -> DevicePrice:
    fields = {
        "hardware": "l4", "provider": "AWS", "sku": "g6", "devices": 1, "region": "us", "term": "on-demand",
        "usd_per_device_hour": usd, "date": "2026-05", "source": "list", "quality": "published",
    }  # fmt: skip
    return DevicePrice(**fields | changes)


# Names


@pytest.mark.parametrize(
    ("name", "memory_bytes", "hardware"),
    [
        ("L4", None, "l4"), ("T4", None, "t4"), ("RTX4090", None, "rtx-4090"), ("RTX6000-Ada", None, "rtx-6000-ada"),
        ("H100NVL", None, "h100-nvl-94gb"), ("H200-SXM", None, "h200-sxm-141gb"), ("B300", None, "b300-sxm"),
        ("A100 PCIe", 40960 * 2**20, "a100-pcie-40gb"), ("Trainium", None, "trainium1"),
    ],
)  # fmt: skip
def test_a_name_that_means_one_device(name, memory_bytes, hardware):
    assert accelerator(name, memory_bytes) == hardware


@pytest.mark.parametrize(
    ("name", "memory_bytes", "said"),
    [
        ("A100", 80e9, "a100-pcie-80gb or a100-sxm-80gb"),
        ("V100", 16e9, "v100-pcie-16gb"),  # the one that has a profile; AWS' V100 with 16 GB is SXM and has none
        ("H100", None, "h100-nvl-94gb or h100-pcie-80gb or h100-sxm-80gb"),
    ],
)
def test_what_a_name_does_not_say_is_not_assumed(name, memory_bytes, said):
    with pytest.raises(UnsaidError, match=f"{name} says no more than {said}"):
        accelerator(name, memory_bytes)


@pytest.mark.parametrize("name", ["K80", "T4g", "tpu-v5litepod-8", "", "a100-sxm-90gb"])
def test_unknown_accelerators_are_refused(name):
    with pytest.raises(UnknownNameError):
        accelerator(name)


# Catalogs


def test_an_instance_is_priced_by_the_device_and_zones_are_one_offer():
    found = taken(
        "g6.12xlarge,L4,4.0,48,192,,4.60,2.00,us-east-1,us-east-1a",
        "g6.12xlarge,L4,4.0,48,192,,4.60,2.40,us-east-1,us-east-1b",
    )
    assert [(row.term, row.usd_per_device_hour, row.devices) for row in found.rows] == [
        ("on-demand", 1.15, 4), ("spot", pytest.approx(0.55), 4),
    ]  # fmt: skip
    assert {row.hardware for row in found.rows} == {"l4"}
    assert {row.quality for row in found.rows} == {"secondary"}
    assert found.refused == {}


def test_gpuhunt_says_spot_in_a_column_and_memory_in_another():
    found = taken(
        "vm.a100,us,3.2,12,85,1,A100,80,False,", "vm.l4,us,0.7,4,16,1,L4,24,False,", "vm.l4,us,0.2,4,16,1,L4,24,True,",
        header=GPUHUNT,
    )  # fmt: skip
    assert [(row.hardware, row.term, row.usd_per_device_hour) for row in found.rows] == [
        ("l4", "on-demand", 0.7), ("l4", "spot", 0.2),
    ]  # fmt: skip
    (reason,) = found.refused
    assert "a100-pcie-80gb or a100-sxm-80gb: say which with --as 'A100=ID'" in reason


def test_an_instance_type_that_the_tables_know_says_which_device_it_has():
    line = "p5.48xlarge,H100,8,192,2048,,55.04,,us-east-1,us-east-1a"
    assert taken(line).rows[0].hardware == "h100-sxm-80gb"
    assert taken(line, prices=()).rows == ()
    meant = catalogs.Wish(provider="AWS", date="2026", source="x", meant={"h100": "h100-pcie-80gb"})
    assert taken(line, wish=meant).rows[0].hardware == "h100-pcie-80gb"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("m5.large,,,2,8,,0.096,,us,", "no accelerator"),
        ("g6,L4,1,4,16,,0,,us,", "a price of 0 or less"),
        ("g6,L4,1,4,16,,-1,,us,", "a price of 0 or less"),
        ("g6,L4,1,4,16,,,,us,", "no price"),
        ("g6,L4,1,4,16,,nan,,us,", "no price"),
        ("g6,L4,1,4,16,,inf,,us,", "no price"),
        ("g6,L4,1,4,16,,cheap,,us,", "a count or price that is no number"),
        ("g6f,L4,0.125,4,16,,0.2,,us,", "not a whole number of accelerators"),
        ("k80,K80,1,4,16,,0.9,,us,", "unknown accelerator 'K80'"),
    ],
)
def test_a_listing_that_cannot_be_read_is_counted_with_its_reason(line, reason):
    found = taken(line, line)
    assert found.rows == ()
    ((said, count),) = found.refused.items()
    assert said.startswith(reason)
    assert count == 2


def test_a_placeholder_is_kept_as_contradicted_and_never_used():
    found = taken("b200.8x,B200,8,1,1,,0.08,,us-east-1,")  # 0.01 USD a device: skypilot issue 9156
    (row,) = found.rows
    assert (row.quality, found.implausible) == ("contradicted", 1)
    assert row.note.startswith("implausible: 0.01 USD/h, known are")
    assert offers.known(found.rows, "b200-sxm") is None


def test_a_device_without_a_known_price_is_taken_and_counted():
    found = taken("x,L4,1,4,16,,0.7,,us,", prices=())
    assert (len(found.rows), found.unchecked) == (1, 1)
    assert "nothing to compare" in found.rows[0].note


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "InstanceType,Price\nx,1\n"])
def test_another_layout_is_refused(text):
    with pytest.raises(InputError, match="is no catalog that is known"):
        catalogs.imported(text, "catalog.csv", WISH, ())


def test_what_is_written_is_read_as_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "catalog.csv").write_text(f"{SKYPILOT}\ng6.xlarge,L4,1,4,16,,0.7,0.2,eu-west-9,\nm5,,,1,1,,1,,us,\n")
    monkeypatch.chdir(tmp_path)
    before = len(device_prices())
    arguments = ("--provider", "Cloud, Inc", "--date", "2026-11", "--output", "prices/mine.csv")
    result = capacity("prices", "import", "catalog.csv", *arguments, "--json")
    assert (result.code, result.json["rows"], result.json["refused"]) == (0, 2, {"no accelerator": 1})
    mine = [row for row in device_prices() if row.provider == "Cloud, Inc"]
    assert len(device_prices()) == before + 2
    assert {(row.term, row.usd_per_device_hour) for row in mine} == {("on-demand", 0.7), ("spot", 0.2)}


def test_nothing_is_written_when_nothing_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "catalog.csv").write_text(f"{SKYPILOT}\nm5,,,1,1,,1,,us,\n")
    monkeypatch.chdir(tmp_path)
    result = capacity("prices", "import", "catalog.csv", "--provider", "x", "--date", "2026", "--output", "mine.csv")
    assert (result.code, (tmp_path / "mine.csv").exists()) == (1, False)
    assert "refused 1: no accelerator" in result.out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"--date": "soon"}, "--date: 'soon' is no day"),
        ({"--date": "2026-02-30"}, "--date: '2026-02-30' is no day"),
        ({"--output": "purchase-mine.csv"}, "would not be read as a table of hours"),
        ({"--output": "mine.txt"}, "would not be read as a table of hours"),
        ({"--as": "A100"}, "--as: 'A100' is not NAME=ID"),
        ({"--as": "A100=a1000"}, "unknown hardware 'a1000'"),
    ],
)
def test_wrong_flags_of_an_import_are_named(tmp_path: Path, changes, said):
    path = tmp_path / "catalog.csv"
    path.write_text(f"{SKYPILOT}\nm5,,,1,1,,1,,us,\n")
    flags = {"--provider": "x", "--date": "2026", "--output": "mine.csv"} | changes
    result = capacity("prices", "import", path, *[word for pair in flags.items() for word in pair])
    assert result.code == 2
    assert said in result.err


# Flags


def test_flags_of_an_offer_by_hand():
    rows = (
        offer(1.0), offer(1.5, sku="more host"), offer(0.9, date="2024"), offer(2.0, term="spot"),
        offer(0.01, sku="free"),
        offer(1.2, sku="guess", quality="assumed"), offer(5.0, sku="wrong", quality="contradicted"),
    )  # fmt: skip
    assert [offers.flags(row, rows, TODAY) for row in rows] == [
        (), ("not counted: a cheaper instance of the same seller",), ("older than a year", "superseded"),
        ("spot above on-demand",),
        ("placeholder? implausible: 0.01 USD/h, known are 1 to 2",), ("assumed",), ("contradicted: never used",),
    ]  # fmt: skip


def test_the_list_shows_every_offer_with_its_flags():
    result = capacity("prices", "list", "-H", "b200-sxm", "--json", "--today", "2026-11-22")
    assert result.code == 0
    hours = [row for row in device_prices() if row.hardware == "b200-sxm"]
    assert len(result.json["offers"]) == len(hours)
    assert {row["hardware"] for row in result.json["purchases"]} == {"b200-sxm"}
    assert all(isinstance(row["flags"], list) for row in result.json["offers"])
    assert "Devices to buy: 2 offers" in capacity("prices", "list", "-H", "b200-sxm").out


def test_a_device_without_an_offer_is_told_and_exits_1():
    result = capacity("prices", "list", "-H", "a30")
    assert result.code == 1
    assert "no price in any table: a30" in result.out


@pytest.mark.parametrize(
    ("arguments", "said"), [(("-H", "h1000"), "unknown hardware 'h1000'"), (("--today", "now"), "--today: 'now'")]
)
def test_wrong_flags_of_the_list_are_named(arguments, said):
    result = capacity("prices", "list", *arguments)
    assert result.code == 2
    assert said in result.err
