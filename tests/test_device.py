"""Operations on devices: where efficiencies come from, what they are then called, and what every time must obey."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capacity import catalogue
from capacity.spec.calibration import Calibration, Composition, Efficiency
from capacity.spec.hardware import Hardware
from capacity.timing import transfer
from capacity.timing.band import BASES, Estimate, total, weakest
from capacity.timing.device import (
    FALLBACK_DTYPE,
    FALLBACK_OPERATION,
    Device,
    MissingFactError,
    reference_bandwidth,
    reference_rate,
)
from capacity.timing.roofline import Roof, executed_flop, seconds
from capacity.work.operations import (
    Attention,
    Collective,
    Gather,
    Gemm,
    GroupedGemm,
    Operation,
    Recurrent,
    Streaming,
    TopK,
)

SHARED = catalogue.shared()
DENSE = {"fp16": 100e12, "bf16": 100e12, "fp32": 20e12}
PRODUCT = Gemm(m=512, n=768, k=768, dtype="fp16")


def fact(value):
    return {"value": value, "source": "made_up"}


def profile(id_: str = "made-up", link: str | None = "NVLink4", rates=DENSE, **more) -> Hardware:
    """Return a device; `link` None is a card without links of its own."""
    base = {"id": id_, "name": id_.title(), "vendor": "ACME", "kind": "gpu", "architecture": "one"}
    base |= {"dense_rates": {name: fact(rate) for name, rate in rates.items()}, "memory_bandwidth": fact(2e12)}
    base |= {"link": link and fact({"kind": link, "bandwidth": 3e11}), "power": fact(400.0)}
    return Hardware.model_validate(base | {"sources": {"made_up": {"citation": "made up", "date": "2026"}}} | more)


def fit(operation: str = "gemm", dtype: str = "fp16", **more) -> Efficiency:
    base = {"t0": 4e-6, "flop_efficiency": 0.8, "bandwidth_efficiency": 0.7, "sharpness": 3, "log_sigma": 0.1}
    return Efficiency(operation=operation, dtype=dtype, median_error=0.05, rows=50, **(base | more))


def calibration(hardware: Hardware, engine: str = "fused", *fits: Efficiency, **more) -> tuple[Calibration, Hardware]:
    found = Calibration(
        id=f"{hardware.id}-{engine}", hardware=hardware.id, engine=engine, source="made up", date="2026-11-22",
        efficiencies=fits or (fit(),), **more,
    )  # fmt: skip
    return found, hardware


def own_device(*fits: Efficiency, hardware: Hardware | None = None, **more) -> Device:
    hardware = hardware or profile()
    return transfer.device(hardware, "fused", [calibration(hardware, "fused", *fits, **more)], SHARED)


# --- where efficiencies come from -----------------------------------------------------------------------------------

OWN_OTHER = calibration(profile(), "eager")
SIBLING = calibration(profile("sibling"))
SAME_CLASS = calibration(profile("same-class", architecture="two"))
SAME_KERNELS = calibration(profile("same-kernels", link=None))
SAME_VENDOR = calibration(profile("card", link=None, architecture="two"))
SAME_KIND = calibration(profile("stranger", vendor="Other"))
OTHER_KIND = calibration(profile("processor", kind="cpu", link=None))
NEAREST_FIRST = [calibration(profile()), OWN_OTHER, SIBLING, SAME_CLASS, SAME_VENDOR, SAME_KIND, OTHER_KIND]
CARRIED = SHARED.carried


@pytest.mark.parametrize(
    ("best", "origin", "basis", "sigma"),
    [
        (0, "made-up-fused", "calibrated", 0.0),
        (1, "made-up-eager", "calibrated", 0.0),
        (2, "sibling-fused, carried over from Sibling", "projected", CARRIED.sibling),
        (3, "same-class-fused, carried over from Same-Class", "projected", CARRIED.same_class),
        (4, "card-fused, carried over from Card", "projected", CARRIED.same_vendor),
        (5, "stranger-fused, carried over from Stranger", "projected", CARRIED.same_kind),
        (6, "assumed values", "assumed", 0.0),
    ],
)
def test_the_nearest_calibration_is_used_and_what_it_costs(best, origin, basis, sigma):
    device = transfer.device(profile(), "fused", NEAREST_FIRST[best:][::-1], SHARED)
    assert (device.origin, device.basis) == (origin, basis)
    assert list(device.errors.values()) == ([sigma] if sigma else [])
    estimate = device.time(PRODUCT)
    assert estimate.basis == basis
    fitted = 0.1 if best < 6 else SHARED.efficiencies[0].log_sigma
    assert estimate.log_sigma == pytest.approx(np.hypot(fitted, sigma))


def test_the_farther_efficiencies_were_carried_the_wider_the_band():
    carried = [transfer.device(profile(), "fused", NEAREST_FIRST[best:], SHARED) for best in (0, 2, 3, 4, 5)]
    widths = [device.time(PRODUCT).high / device.time(PRODUCT).low for device in carried]
    assert widths == sorted(widths)
    assert len(set(widths)) == 5


def test_a_cousin_by_its_kernels_is_as_near_as_one_by_its_board():
    carried = [transfer.device(profile(), "fused", [pair], SHARED) for pair in (SAME_CLASS, SAME_KERNELS)]
    assert [list(device.errors.values()) for device in carried] == [[CARRIED.same_class]] * 2


def test_among_equals_the_same_engine_wins_then_the_name():
    other, first, second = (
        calibration(profile(name), engine) for name, engine in (("a", "eager"), ("b", "fused"), ("c", "fused"))
    )
    assert transfer.device(profile(), "fused", [other, second, first], SHARED).origin.startswith("b-fused")
    assert transfer.device(profile(), "eager", [second, first, other], SHARED).origin.startswith("a-eager")


@pytest.mark.parametrize(
    ("power", "factor"),
    [(200.0, 0.5), (400.0, 1.0), (800.0, 1.0), (None, 1.0)],  # W for the same rate as a sibling of 400 W
)
def test_a_sibling_with_fewer_watts_reaches_less_of_its_rate(power, factor):
    hardware = profile(power=power and fact(power))
    device = transfer.device(hardware, "fused", [SIBLING], SHARED)
    large = Gemm(m=8192, n=8192, k=8192, dtype="fp16")
    expected = large.flop / (0.8 * factor * 100e12)
    assert float(device.time(large).value) == pytest.approx(expected, rel=0.01)  # launch and traffic are below 1 %
    stranger = transfer.device(hardware, "fused", [SAME_CLASS], SHARED)  # another generation: nothing is scaled
    assert float(stranger.time(large).value) == pytest.approx(large.flop / 80e12, rel=0.01)


@pytest.mark.parametrize(
    ("operation", "dtype", "fits", "stand_in", "basis"),
    [
        ("gemm", "fp16", ["gemm fp16"], False, "calibrated"),
        ("gemm", "bf16", ["gemm fp16"], False, "calibrated"),  # the same units at the same rate
        ("gemm", "fp32", ["gemm fp16"], True, "projected"),  # other units
        ("recurrent", "fp16", ["gemm fp16"], True, "projected"),  # another class
        ("attention.decode", "fp16", ["gemm fp16", "attention.prefill fp16"], True, "projected"),
        ("streaming.optimizer", "fp16", ["streaming.norm fp16"], True, "projected"),  # add, then norm: two steps away
        ("gemm", "fp16", ["streaming.norm fp16"], False, "assumed"),  # nothing of the class: the shared value
        ("gemm", "fp32", ["streaming.norm fp16"], True, "assumed"),  # a stand-in for an assumed value is no better
    ],
)
def test_what_stands_in_is_marked_and_widens(operation, dtype, fits, stand_in, basis):
    device = own_device(*(fit(*name.split()) for name in fits))
    found = device.time(operation_of(operation, dtype))
    assert found.basis == basis
    assert ("stand-in efficiency" in found.errors) is stand_in
    if stand_in:
        assert found.errors["stand-in efficiency"] == SHARED.stand_in_log_sigma


def operation_of(name: str, dtype: str) -> Operation:
    """Return some operation of a class."""
    family, _, kind = name.partition(".")
    if family == "attention":
        return Attention(batch=4, heads=8, kv_heads=8, query=64, keys=64, head_dim=64, dtype=dtype, phase=kind)
    if family == "streaming":
        return Streaming(kind=kind, elements=1e6, dtype=dtype)
    if family == "recurrent":
        return Recurrent(batch=4, steps=20, inputs=128, hidden=128, dtype=dtype)
    return Gemm(m=64, n=64, k=64, dtype=dtype)


def test_weights_that_are_unpacked_on_the_way_are_projected():
    device = own_device()
    packed = device.time(dataclasses.replace(PRODUCT, weight_dtype="int4"))
    assert (packed.basis, packed.errors["stand-in efficiency"]) == ("projected", SHARED.stand_in_log_sigma)
    assert device.time(dataclasses.replace(PRODUCT, weight_dtype="fp16")).basis == "calibrated"


def test_every_stand_in_is_itself_known_and_ends_somewhere():
    assumed = {item.operation for item in SHARED.efficiencies}
    for name in FALLBACK_OPERATION:
        seen = [name]
        while seen[-1] not in assumed:
            following = FALLBACK_OPERATION[seen[-1]]
            assert following not in seen, f"{name} never reaches an assumed efficiency"
            seen.append(following)
    assert all(set(others) <= set(DENSE) | {"tf32", "fp8", "int8"} for others in FALLBACK_DTYPE.values())


@pytest.mark.parametrize(
    ("changed", "operation", "message"),
    [
        ({"rates": {}}, PRODUCT, "made-up has no dense fp16 rate; its profile knows none"),
        ({"rates": {"int8": 1e12}}, PRODUCT, "made-up has no dense fp16 rate; its profile knows int8"),
        ({"memory_bandwidth": None}, PRODUCT, "made-up has no memory_bandwidth in its profile"),
        (
            {"link": None},
            Collective(kind="all_reduce", message_bytes=1e6, devices=2),
            "neither link nor host_bandwidth",
        ),
    ],
)
def test_a_missing_fact_is_named(changed, operation, message):
    with pytest.raises(MissingFactError, match=message):
        own_device(hardware=profile(**changed)).time(operation)


def test_vector_work_takes_the_rate_that_is_known():
    half_only = profile(rates={"fp16": 100e12}, host_bandwidth=fact(3e10), link=None)
    assert reference_rate(half_only, "gather", "fp32") == reference_rate(half_only, "streaming.norm", "fp32") == 100e12
    exchange = Collective(kind="send", message_bytes=1e6, devices=2)
    assert reference_bandwidth(half_only, exchange) == 3e10  # no link of its own: through the host
    assert reference_bandwidth(profile(), exchange) == 3e11


# --- what every time obeys ------------------------------------------------------------------------------------------

SIZE = st.integers(1, 2**14).map(float)
ROOFS = st.builds(
    Roof, t0_s=st.floats(1e-7, 1e-4), flop_per_s=st.floats(1e9, 1e15), bytes_per_s=st.floats(1e9, 1e13),
    sharpness=st.floats(1, 20), softmax_columns=st.floats(0, 200),
)  # fmt: skip
OPERATIONS = st.one_of(
    st.builds(Gemm, m=SIZE, n=SIZE, k=SIZE, dtype=st.sampled_from(["fp32", "fp16"]), batch=st.integers(1, 8)),
    st.builds(GroupedGemm, routed=SIZE, groups=st.integers(1, 64), n=SIZE, k=SIZE, dtype=st.just("fp16")),
    st.builds(
        Attention, batch=st.integers(1, 64), heads=st.integers(1, 16), kv_heads=st.just(1), query=SIZE,
        keys=st.just(2.0**14), head_dim=st.sampled_from([32, 64, 128]), dtype=st.just("fp16"), causal=st.booleans(),
    ),
    st.builds(Streaming, kind=st.sampled_from(["norm", "copy"]), elements=SIZE, dtype=st.just("fp32")),
    st.builds(Gather, rows=SIZE, width=SIZE, dtype=st.just("fp32"), pooled=st.integers(1, 50)),
    st.builds(TopK, rows=SIZE, columns=SIZE, k=st.integers(1, 100), dtype=st.just("fp32")),
)  # fmt: skip


@given(OPERATIONS, ROOFS)
def test_no_time_is_below_its_own_roof(operation, roof):
    compute = executed_flop(operation, roof.softmax_columns) / roof.flop_per_s
    traffic = operation.moved_bytes / roof.bytes_per_s
    found = float(seconds(operation, roof))
    assert found >= roof.t0_s + max(compute, traffic) * (1 - 1e-12)
    assert found <= roof.t0_s + (compute + traffic) * (1 + 1e-12)  # a corner costs at most the sum of both


@given(st.tuples(SIZE, SIZE, SIZE), st.sampled_from(["m", "n", "k"]), st.floats(1, 100), ROOFS)
def test_a_larger_product_never_takes_less(sizes, grown, factor, roof):
    small = Gemm(m=sizes[0], n=sizes[1], k=sizes[2], dtype="fp16")
    large = dataclasses.replace(small, **{grown: getattr(small, grown) * factor})
    assert seconds(large, roof) >= seconds(small, roof) * (1 - 1e-12)


@given(SIZE, ROOFS, st.floats(1, 20))
def test_a_sharper_corner_never_takes_more(size, roof, other):
    blunt, sharp = sorted((roof.sharpness, other))
    times = [
        seconds(Gemm(m=size, n=64, k=64, dtype="fp16"), dataclasses.replace(roof, sharpness=p)) for p in (blunt, sharp)
    ]
    assert times[1] <= times[0] * (1 + 1e-12)


@given(OPERATIONS, st.integers(1, 50))
def test_launches_add_up(operation, count):
    device = own_device(fit(), fit("attention.encoder"), fit("streaming.norm", "fp32"), fit("gather", "fp32"))
    one, many = device.time(operation), device.time(dataclasses.replace(operation, count=count))
    assert many.value == pytest.approx(count * one.value)
    summed = total([one] * count)
    assert (summed.value, summed.log_sigma) == (pytest.approx(float(many.value)), pytest.approx(float(many.log_sigma)))


@given(st.integers(2, 4096), st.integers(1, 4095))
def test_splitting_a_batch_costs_at_least_a_launch_and_the_weights_again(rows, share):
    device = own_device()
    part = min(share, rows - 1)
    whole, *parts = (float(device.time(dataclasses.replace(PRODUCT, m=m)).value) for m in (rows, part, rows - part))
    assert sum(parts) > whole
    assert max(parts) <= whole
    assert sum(parts) <= 2 * whole  # neither part takes longer than the whole


def test_arrays_are_the_loop_over_their_values():
    device = own_device(fit(), fit("attention.encoder", softmax_columns=75))
    m, n = np.array([1.0, 8, 64, 4096]), np.array([[256.0], [768.0]])
    whole = device.time(Gemm(m=m, n=n, k=768, dtype="fp16"))
    loop = [[device.time(Gemm(m=a, n=b, k=768, dtype="fp16")) for a in m] for b in n[:, 0]]
    for name in ("value", "low", "high"):
        assert np.allclose(getattr(whole, name), [[getattr(item, name) for item in row] for row in loop], rtol=1e-14)
    tokens = np.array([16.0, 128, 512])
    step = [Gemm(m=tokens, n=768, k=768, dtype="fp16", count=3)]
    step.append(Attention(batch=2, heads=12, kv_heads=12, query=tokens, keys=tokens, head_dim=64, dtype="fp16"))
    together = device.step(step)
    for index, length in enumerate(tokens):
        alone = device.step(
            [
                Gemm(m=length, n=768, k=768, dtype="fp16", count=3),
                dataclasses.replace(step[1], query=length, keys=length),
            ]
        )
        assert (together.value[index], together.high[index]) == (pytest.approx(alone.value), pytest.approx(alone.high))


# --- whole steps ----------------------------------------------------------------------------------------------------


def measured_step(launch: float, slowdown: float = 1.2, **more) -> Composition:
    return Composition(
        mode="inference", launch=launch, slowdown=slowdown, log_sigma=0.08, median_error=0.05, rows=6, **more
    )


@pytest.mark.parametrize(
    ("kind", "launch", "expected"),
    [
        ("cpu", 10e-6, "kernels + launches"),  # the host does both, one after the other
        ("gpu", 10e-6, "kernels"),  # launches hide behind kernels
        ("gpu", 1.0, "launches"),  # and are what bounds where they are longer
    ],
)
def test_launches_add_on_a_cpu_and_bound_on_a_gpu(kind, launch, expected):
    hardware = profile(kind=kind)
    device = own_device(hardware=hardware, composition=(measured_step(launch),))
    work = [dataclasses.replace(PRODUCT, count=30), dataclasses.replace(PRODUCT, m=8192)]
    parts = {"kernels": 1.2 * sum(float(device.time(op).value) for op in work), "launches": 31 * launch}
    assert float(device.step(work).value) == pytest.approx(sum(parts[name] for name in expected.split(" + ")))


def test_a_step_judged_on_whole_models_has_their_error_and_not_the_kernels():
    work = [PRODUCT, dataclasses.replace(PRODUCT, dtype="fp32")]  # the second one a stand-in
    own = own_device(composition=(measured_step(1e-6),)).step(work)
    assert own.errors == {"inference step on made-up": 0.08}
    carried = transfer.device(
        profile("other"), "fused", [calibration(profile(), "fused", composition=(measured_step(1e-6),))], SHARED
    )
    errors = carried.step(work).errors
    assert errors["carried over from made-up"] == CARRIED.sibling  # of both terms alike
    assert {"gemm on other", "inference step on other"} <= errors.keys()


def test_a_step_of_unknown_mode_is_the_sum_of_its_operations():
    device = dataclasses.replace(own_device(), compositions={})
    assert device.step([PRODUCT, PRODUCT]) == total([device.time(PRODUCT)] * 2)
    assert float(device.step([]).value) == 0


@pytest.mark.parametrize(
    ("operation", "bound"),
    [
        (Gemm(m=8192, n=8192, k=8192, dtype="fp16"), "compute"),
        (Gemm(m=1, n=8192, k=8192, dtype="fp16"), "memory bandwidth"),
        (Gemm(m=1, n=8, k=8, dtype="fp16"), "kernel launches"),
        (Collective(kind="all_reduce", message_bytes=1e9, devices=8), "interconnect"),
    ],
)
def test_the_bound_is_what_takes_longest(operation, bound):
    assert own_device().bound([operation, Gemm(m=1, n=8, k=8, dtype="fp16")]) == bound


# --- sums -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(1e-6, 1.0), st.floats(0.01, 1.0), st.sampled_from(BASES)), min_size=1, max_size=8))
def test_sums_are_as_unsure_as_their_sources_say(terms):
    same = total(Estimate(value, {"device": sigma}, basis) for value, sigma, basis in terms)
    apart = total(Estimate(value, {f"kernel {n}": sigma}, basis) for n, (value, sigma, basis) in enumerate(terms))
    assert same.value == apart.value == pytest.approx(sum(value for value, _, _ in terms))
    mean = sum(value * sigma for value, sigma, _ in terms) / sum(value for value, _, _ in terms)
    assert same.log_sigma == pytest.approx(mean)  # one source: linear
    assert apart.log_sigma <= same.log_sigma * (1 + 1e-9)  # many: quadrature
    assert same.low <= same.value <= same.high
    largest = max(terms)[2]
    assert same.basis == weakest([same.basis, largest])  # never better than its largest term


def test_a_small_term_does_not_spoil_the_basis():
    large, small = Estimate(1.0, {}, "calibrated"), Estimate(0.04, {}, "assumed")
    assert total([large, small]).basis == "calibrated"
    assert total([large, small, small]).basis == "calibrated"
    assert total([large, small.scaled(2)]).basis == "assumed"  # 7 % of the sum
