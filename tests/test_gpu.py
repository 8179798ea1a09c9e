"""GPU profiles and clocks from replayed NVML: known cards, unknown ones, and what a card does not support."""

import pytest
from replay_nvml import ReplayNvml, unsupported

from capacity import catalogue, documents
from capacity.spec.hardware import Hardware
from kernels import machine
from kernels.gpu import SHIPPED, detect_gpu, hardware_id_of, plain_name
from kernels.meters import ClockLog
from kernels.nvml import NvmlUnavailableError, nvml_index

MiB = 2**20


def test_every_known_name_has_a_shipped_profile():
    assert set(SHIPPED.values()) <= set(documents.catalogue("hardware_profiles"))
    assert all(plain_name(key) == key for key in SHIPPED)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100-sxm-80gb"),
        ("A100-SXM4-40GB", "a100-sxm-40gb"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie-80gb"),
        ("NVIDIA A10G", "a10g"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm-80gb"),
        ("NVIDIA H100 PCIe", "h100-pcie-80gb"),
        ("NVIDIA H200", "h200-sxm-141gb"),
        ("NVIDIA B200", "b200-sxm"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
        ("Tesla T4", "t4"),
        ("Tesla V100-SXM2-32GB", "v100-sxm-32gb"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA GeForce RTX 3090", "rtx-3090"),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA GeForce GTX 1080", None),
        ("", None),
    ],
)
def test_names(name, expected):
    assert hardware_id_of(name) == expected


@pytest.mark.parametrize(
    ("card", "shipped", "own", "host"),
    [
        ("a100", "a100-sxm-80gb", (81920 * MiB, 108, 400), 31.5e9),
        ("t4", "t4", (15360 * MiB, 40, 70), 15.75e9),
        ("h100", "h100-sxm-80gb", (81559 * MiB, 132, 700), 63e9),
    ],
)
def test_known_cards(card, shipped, own, host):
    nvml = ReplayNvml.of(card)
    found, datasheet = detect_gpu(0, nvml), catalogue.hardware(shipped)
    assert (found.id, found.architecture) == (datasheet.id, datasheet.architecture)
    assert found.dense_rates == datasheet.dense_rates
    assert found.memory_bandwidth == datasheet.memory_bandwidth
    assert (found.memory.value, found.cores.value, found.power.value) == own
    assert found.host_bandwidth.value == pytest.approx(host, rel=1e-3)
    assert {fact.source for fact in (found.memory, found.cores, found.power, found.host_bandwidth)} == {"detected"}
    assert found.clock.value == datasheet.clock.value  # the one the rates are quoted at
    assert "NVML allows" in found.clock.note
    assert nvml.sessions == 0


@pytest.mark.parametrize(("card", "shipped"), [("a100", "a100-sxm-80gb"), ("t4", "t4"), ("h100", "h100-sxm-80gb")])
def test_bandwidth_from_bus_width_and_clock_agrees_with_the_datasheet(card, shipped):
    found = detect_gpu(0, ReplayNvml.of(card, nvmlDeviceGetName="NVIDIA Unknown 9000"))
    assert found.memory_bandwidth.value == pytest.approx(catalogue.hardware(shipped).memory_bandwidth.value, rel=2e-3)


def test_a_lowered_power_limit_is_the_cards_own():
    found = detect_gpu(0, ReplayNvml.of("a100", nvmlDeviceGetEnforcedPowerLimit=300_000))
    assert found.power.value == 300
    other = {"nvmlDeviceGetEnforcedPowerLimit": unsupported(), "nvmlDeviceGetPowerManagementLimit": 350_000}
    assert detect_gpu(0, ReplayNvml.of("a100", **other)).power.value == 350


def test_an_unknown_card_has_its_own_facts_and_no_rates():
    found = detect_gpu(0, ReplayNvml.of("h100", nvmlDeviceGetName="NVIDIA Unknown 9000"))
    assert found.id == "local-unknown-9000"
    assert found.architecture == "hopper"
    assert found.dense_rates == {}
    assert found.rate("fp16") is None
    assert (found.cores.value, found.clock.value, found.power.value) == (132, 1.98e9, 700)


def test_what_a_card_does_not_support_stays_unknown():
    functions = ("MemoryInfo", "EnforcedPowerLimit", "PowerManagementLimit", "NumGpuCores", "MaxPcieLinkGeneration")
    functions += ("MaxClockInfo", "MemoryBusWidth", "Architecture")
    silent = {f"nvmlDeviceGet{name}": unsupported() for name in functions}
    found = detect_gpu(0, ReplayNvml.of("t4", nvmlDeviceGetName="Card X", **silent))
    assert [found.memory, found.power, found.cores, found.host_bandwidth, found.clock, found.memory_bandwidth] == [
        None
    ] * 6
    known = detect_gpu(0, ReplayNvml.of("t4", **silent))
    assert known == catalogue.hardware("t4").model_copy(update={"sources": known.sources})


def test_a_profile_without_clock_and_bandwidth_takes_the_cards(tmp_path, monkeypatch):
    (tmp_path / "hardware_profiles").mkdir()
    text = "id: t4\nname: T4\nvendor: NVIDIA\nkind: gpu\nsources: {}\n"
    (tmp_path / "hardware_profiles/t4.yaml").write_text(text)
    monkeypatch.setenv("CAPACITY_PATH", str(tmp_path))
    found = detect_gpu(0, ReplayNvml.of("t4"))
    assert (found.id, found.name, found.clock.value) == ("t4", "T4", 1.59e9)
    assert found.memory_bandwidth.value == 256 / 8 * 5001e6 * 2
    assert found.dense_rates == {}


def test_slices_of_a_card_have_no_datasheet_rates():
    found = detect_gpu(0, ReplayNvml.of("a100", nvmlDeviceGetMigMode=[1, 1]))
    assert found.id == "local-a100-sxm4-80gb-mig"
    assert found.dense_rates == {}


def test_older_bindings_answer_with_bytes():
    nvml = ReplayNvml.of("t4", nvmlDeviceGetName=b"Tesla T4", nvmlSystemGetDriverVersion=b"450.51.06")
    assert detect_gpu(0, nvml).id == "t4"
    assert machine.fingerprint(1, nvml=nvml).driver == "450.51.06"


def test_no_driver_and_no_such_card():
    with pytest.raises(NvmlUnavailableError, match="does not start"):
        detect_gpu(0, ReplayNvml())
    nvml = ReplayNvml.of("t4")
    with pytest.raises(NvmlUnavailableError, match="no GPU 3"):
        detect_gpu(3, nvml)
    assert nvml.sessions == 0


@pytest.mark.parametrize(
    ("visible", "cuda", "expected"), [(None, 1, 1), ("1,0", 0, 1), ("1", 0, 1), ("GPU-8100,GPU-7040", 1, 0)]
)
def test_cuda_numbers_become_nvml_numbers(visible, cuda, expected):
    nvml = ReplayNvml.of("t4", "h100")
    nvml.nvmlInit()
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert nvml_index(cuda, nvml, environment) == expected


@pytest.mark.parametrize("visible", ["", "1", "0,MIG-1234"])
def test_devices_that_cuda_does_not_see(visible):
    nvml = ReplayNvml.of("t4", "h100")
    nvml.nvmlInit()
    with pytest.raises(NvmlUnavailableError, match="CUDA_VISIBLE_DEVICES"):
        nvml_index(1, nvml, {"CUDA_VISIBLE_DEVICES": visible})


# --- clocks ---------------------------------------------------------------------------------------------------------


def clock_log(*bits: int, **overrides: object) -> ClockLog:
    """Return the log of an H100 whose clock was held down by `bits`, one moment after the other."""
    told = iter(bits)
    reasons = {"nvmlDeviceGetCurrentClocksEventReasons": lambda: next(told)} if bits else {}
    nvml = ReplayNvml.of("h100", **(reasons | overrides))
    nvml.nvmlInit()
    log = ClockLog(nvml, 0)
    for _ in bits or range(2):
        log.note()
    return log


def test_clock_and_power_cap_as_recorded():
    log = clock_log()
    assert (log.clock_hz, log.reasons, log.slowdowns) == (1.755e9, ("the power cap",), ())
    assert log.said == "SM clock 1.755 of at most 1.98 GHz, held down by the power cap"


def test_heat_is_no_part_of_normal_work():
    log = clock_log(0, 0, 0x04, 0x44)
    assert log.reasons == ("the power cap", "a hardware thermal slowdown")
    assert log.slowdowns == ("a hardware thermal slowdown",)
    assert clock_log(0x20, 0x80, 0x01, 0x00).reasons == ()  # while it settled, or had nothing to do


def test_clocks_that_cannot_be_read():
    silent = {f"nvmlDeviceGet{name}": unsupported() for name in ("ClockInfo", "MaxClockInfo")}
    silent |= {f"nvmlDeviceGetCurrentClocks{name}Reasons": unsupported() for name in ("Event", "Throttle")}
    log = clock_log(**silent)
    assert (log.clock_hz, log.reasons, log.said) == (None, (), "")
    older = {"nvmlDeviceGetCurrentClocksEventReasons": unsupported(), "nvmlDeviceGetCurrentClocksThrottleReasons": 8}
    assert clock_log(**older).slowdowns == ("a hardware slowdown",)


@pytest.mark.gpu
def test_the_gpu_of_this_machine():
    try:
        profile = detect_gpu()
    except NvmlUnavailableError as error:
        pytest.skip(str(error))
    assert Hardware.model_validate_json(profile.model_dump_json()) == profile
    assert profile.memory.value > 0
