"""The shipped hardware profiles: they load, are plausible, and agree with the reference data or say why not."""

import csv
import math
import re
from pathlib import Path

import pytest

from capacity import documents
from capacity.spec.hardware import Fact, Hardware

FOLDER = Path(__file__).resolve().parents[1] / "hardware_profiles"
REFERENCE = Path(__file__).resolve().parents[2] / "shared" / "data" / "hardware_facts.csv"
PATHS = {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def load(name: str) -> Hardware:
    return documents.validated(documents.read(PATHS[name]), Hardware)


def facts(hardware: Hardware) -> dict[str, Fact]:
    """Every known fact by name; a rate's name is its dtype."""
    single = {name: getattr(hardware, name) for name in Hardware.model_fields}
    return {name: fact for name, fact in {**single, **hardware.dense_rates}.items() if isinstance(fact, Fact)}


def number(fact: Fact) -> float:
    return fact.value.bandwidth if hasattr(fact.value, "bandwidth") else float(fact.value)


@pytest.fixture(params=PATHS)
def profile(request: pytest.FixtureRequest) -> Hardware:
    return load(request.param)


def test_a_profile_for_each_device_is_shipped():
    assert len(PATHS) >= 69


def test_file_name_is_the_id(profile):
    assert PATHS[profile.id].stem == profile.id
    assert PATHS[profile.id].read_text(encoding="utf-8").startswith("# yaml-language-server: $schema=")


def test_every_fact_has_a_dated_source_and_every_source_a_fact(profile):
    cited = {fact.source for fact in facts(profile).values()}
    assert cited == set(profile.sources)  # the model refuses undated and missing sources; none may idle either
    assert cited


def test_unknown_is_left_out_never_zero(profile):
    assert all(number(fact) > 0 for fact in facts(profile).values())
    assert profile.dense_rates, "a device without one rate can plan nothing"


# Narrower dtypes are never slower, with these exceptions: Blackwell Ultra gave up its int8 units for fp4.
SLOW_INT8 = {"b300-sxm", "gb300"}


def test_narrower_dtypes_are_not_slower(profile):
    rates = {dtype: fact.value for dtype, fact in profile.dense_rates.items()}
    pairs = [("fp64", "fp32"), ("fp32", "tf32"), ("fp32", "fp16"), ("fp32", "bf16"), ("tf32", "fp16"), ("tf32", "bf16")]
    pairs += [("fp16", "fp8"), ("bf16", "fp8"), ("fp8", "fp4"), ("int8", "int4")]
    pairs += [] if profile.id in SLOW_INT8 else [("fp16", "int8"), ("bf16", "int8")]
    for wide, narrow in pairs:
        if wide in rates and narrow in rates:
            assert rates[narrow] >= rates[wide], f"{narrow} below {wide}"


def test_fp16_and_bf16_run_on_the_same_units_of_a_gpu(profile):
    if {"fp16", "bf16"} <= set(profile.dense_rates) and profile.kind == "gpu":
        assert profile.rate("fp16") == profile.rate("bf16")


# Quoted rates whose clock is not the one in the profile; each profile's note on the clock says which it is.
ODD_CLOCK = {"a10g", "b200-sxm", "b300-sxm", "gb200", "gb300"}


def test_tensor_rate_is_a_power_of_two_a_unit_and_cycle(profile):
    rate, cores, clock = profile.rate("fp16"), profile.cores, profile.clock
    if profile.kind != "gpu" or rate is None or cores is None or clock is None or profile.id in ODD_CLOCK:
        return
    if profile.architecture == "pascal":  # no tensor cores: two fp16 a lane
        assert rate / (cores.value * clock.value) == pytest.approx(256, rel=0.02)
        return
    flop_per_cycle = rate / (cores.value * clock.value)
    assert flop_per_cycle == pytest.approx(2 ** round(math.log2(flop_per_cycle)), rel=0.02)
    assert 500 <= flop_per_cycle <= 16384


def test_cpu_rates_are_cores_times_clock_times_flop_per_cycle(profile):
    if profile.kind == "cpu":
        for dtype, fact in profile.dense_rates.items():
            flop_per_cycle = fact.value / (profile.cores.value * profile.clock.value)
            assert flop_per_cycle == pytest.approx(2 ** round(math.log2(flop_per_cycle)), rel=1e-3), dtype
            assert "derived" in fact.note


def test_power_is_above_idle(profile):
    if profile.power and profile.idle_power:
        assert profile.power.value > profile.idle_power.value


def test_host_link_is_slower_than_memory(profile):
    if profile.host_bandwidth and profile.memory_bandwidth:
        assert profile.host_bandwidth.value < profile.memory_bandwidth.value


GOLDEN = [
    ("a100-sxm-80gb", "bf16", 312e12),  # 108 SMs × 2048 FLOP/cycle × 1.41 GHz; 624 is the sparse figure
    ("a100-sxm-80gb", "memory", 80 * 2**30),  # 81920 MiB by nvidia-smi, 7.4 % more than 80 GB
    ("a100-sxm-80gb", "memory_bandwidth", 2039e9),  # five HBM2e stacks, 5120 bit × 3.186 Gbit/s
    ("a100-sxm-40gb", "memory_bandwidth", 1555e9),  # the 40 GB card has slower HBM2
    ("h100-sxm-80gb", "bf16", 989e12),  # 132 SMs × 4096 × 1.83 GHz; blogs print 1979, sparse
    ("h100-sxm-80gb", "link", 450e9),  # 18 NVLink 4 links × 25 GB/s per direction; 900 is both directions
    ("h200-sxm-141gb", "last_level_cache", 60e6),  # a sixth memory stack brings the rest of GH100's L2
    ("t4", "fp16", 65e12),  # 40 SMs × 1024 × 1.59 GHz
    ("v100-sxm-32gb", "fp16", 125e12),  # 80 SMs × 1024 × 1.53 GHz
    ("l4", "cores", 58),  # databases print 60, the full die; 58 × 1024 × 2.04 GHz = 121 TFLOP/s
    ("l40s", "last_level_cache", 96e6),  # Ada whitepaper; TechPowerUp prints 48
    ("b200-sxm", "fp4", 9e15),  # half of the sparse 18
    ("gb200", "cores", 152),  # the superchip's GPU has two GPCs' worth more than the HGX B200 (148)
    ("gb300", "clock", 2.07e9),  # highest SM clock by nvidia-smi
    ("rtx-pro-6000-server", "memory_bandwidth", 1597e9),  # 25 Gbit/s GDDR7; the Workstation Edition's 28 give 1792
    ("rtx-a6000", "fp16", 154.8e12),  # 84 SMs × 1024 × 1.8 GHz
    ("rtx-4090", "fp16", 165.2e12),  # fp32 accumulate: 128 SMs × 512 × 2.52 GHz
    ("mi300x", "fp8", 2614.9e12),  # 304 CUs × 4096 × 2.1 GHz
    ("xeon-8480plus", "bf16", 56 * 2.0e9 * 1024),  # AMX: 1024 FLOP/cycle/core
    ("epyc-9654", "fp32", 96 * 2.4e9 * 32),  # Zen 4 runs AVX-512 in two passes of 256 bit
    ("epyc-9755", "fp32", 128 * 2.7e9 * 64),  # Zen 5 has native 512-bit pipes
    ("tpu-v5e", "int8", 394e12),
]


@pytest.mark.parametrize(("name", "fact", "value"), GOLDEN)
def test_golden_fact(name, fact, value):
    assert number(facts(load(name))[fact]) == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("t4", "bf16"),
        ("t4", "tf32"),
        ("arc-pro-b60", "fp8"),
        ("v100-sxm-32gb", "bf16"),
        ("a100-sxm-80gb", "fp8"),
        ("h100-sxm-80gb", "fp4"),
    ],
)
def test_dtype_the_chip_has_no_unit_for_is_unknown(name, dtype):
    assert load(name).rate(dtype) is None  # Turing and Volta have no bf16, Ampere no fp8, Hopper no fp4


# Column of the reference table → (factor to SI, names the fact may have in a profile).
COLUMNS = {
    "memory_GB": (1e9, ["memory"]),
    "mem_bandwidth_GBps": (1e9, ["memory_bandwidth"]),
    "fp4_or_int4_T": (1e12, ["fp4", "int4"]),
    "int8_TOPS": (1e12, ["int8"]),
    "interconnect_GBps": (1e9, ["link"]),
    "tdp_W": (1.0, ["power"]),
    "idle_W": (1.0, ["idle_power"]),
    "L2_MB": (1e6, ["last_level_cache"]),
    "SMs_or_cores": (1.0, ["cores"]),
    "cpu_base_GHz": (1e9, ["clock"]),
} | {f"{dtype}_TFLOPS": (1e12, [dtype]) for dtype in ("fp64", "fp32", "tf32", "fp16", "bf16", "fp8")}


def rows() -> list[dict[str, str]]:
    if not REFERENCE.exists():
        pytest.skip(f"the reference data is not here: {REFERENCE}")
    with REFERENCE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_device_of_the_reference_has_a_profile():
    assert {row["id"] for row in rows()} <= set(PATHS)


def test_facts_agree_with_the_reference_or_say_why():
    wrong = []
    for row in rows():
        known = facts(load(row["id"]))
        for column, (factor, names) in COLUMNS.items():
            leading = re.match(r"\s*([\d.]+)", row[column])
            if leading is None:
                continue
            fact = next((known[name] for name in names if name in known), None)
            expected = float(leading[1]) * factor
            if fact is None:
                wrong.append(f"{row['id']}: {column} {row[column]} is missing")
            elif number(fact) != pytest.approx(expected, rel=0.01) and not fact.note:
                wrong.append(f"{row['id']}: {column} {row[column]} against {number(fact):g}, without a note")
    assert not wrong, "\n".join(wrong)
