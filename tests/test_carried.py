"""Which kernels answer on a device: its own, its relatives', those of another engine or dtype; and what that costs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from made_up import RATES, calibration, distance, family, hardware, kernel_fit, shared, typical

from capacity import catalogue
from capacity.errors import UnknownNameError
from capacity.timing import carried, families, transfer
from capacity.timing.device import Device
from capacity.timing.form import Board, MissingFactError
from capacity.timing.forms import OF_FAMILY, PLAIN, form_of, named
from capacity.timing.kernel import Key, Scatter, key_of
from capacity.timing.learn import LEAST_TREE_ROWS
from capacity.timing.residual import DEPTH, Trees
from capacity.work.expert_layer import ExpertLayer
from capacity.work.operations import Attention, Collective, Gather, Gemm

LIBRARY: Key = ("gemm", "library", "bf16", "bf16")
VLLM: Key = ("gemm", "library/vllm", "bf16", "bf16")
FP16: Key = ("gemm", "library", "fp16", "fp16")
CUTLASS: Key = ("gemm", "cutlass", "fp8", "fp8")
HERE = hardware()
SIBLING, TWIN = hardware("sibling"), hardware("twin")
COUSIN, CARD = hardware("cousin", architecture="ampere"), hardware("card", architecture="ampere", link=None)
STRANGER, PROCESSOR = hardware("stranger", vendor="Other"), hardware("processor", kind="cpu")
PRODUCT = Gemm(m=512, n=1024, k=1024, dtype="bf16")
DECODE = Attention(batch=1, heads=8, kv_heads=8, query=1, keys=9, head_dim=64, dtype="bf16", phase="decode")
FAMILY = family(LIBRARY, {"sharpness": 5.0, "split_s": 3e-6})


def fit(t0_s: float = 4e-6, key: Key = LIBRARY, **more):
    return kernel_fit(key, {"t0_s": t0_s, "flop_efficiency": 0.7}, **more)


def constant(correction: float) -> Trees:
    """Return trees that add the same to every logarithm."""
    values = np.zeros((1, 2**DEPTH))
    values[:] = correction
    names = ("ln m", "ln n", "ln k", "ln batch", "ln FLOP", "ln bytes", "ln seconds", "ln m·n", "ln m/n")
    names = (*names, "unfilled, 64", "unfilled, 128")
    ends = np.full(len(names), np.inf)
    return Trees(names, np.zeros((1, DEPTH), dtype=int), np.zeros((1, DEPTH)), values, -ends, ends)


def t0_us(found) -> float:
    return round(1e6 * found.values["t0_s"], 9)


def kernels(*pairs, on=HERE, known=None):
    return carried.kernels(on, pairs, known or shared(FAMILY))


def device(*pairs, on=HERE, known=None) -> Device:
    return transfer.device(on, "fused", pairs, known or shared(FAMILY))


# --- how far apart ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "other", "expected"),
    [
        ({}, {}, 0),
        ({"link": None}, {"link": None}, 0),  # two cards of one generation
        ({"link": None}, {"link": "PCIe5"}, 0),  # a link of that kind is the host's bus
        ({}, {"architecture": "ampere"}, 1),  # the same class of board
        ({}, {"link": None}, 1),  # the same kernels
        ({}, {"link": None, "architecture": "ampere"}, 2),
        ({"architecture": None}, {"architecture": None}, 1),  # two unknown generations are not one
        ({"architecture": None, "link": None}, {"architecture": None}, 2),
        ({}, {"vendor": "Other"}, 3),
        (  # a Blackwell card with GDDR memory runs the kernels of Ada, and is still no Ada
            {"architecture": "blackwell", "memory_type": "GDDR7", "link": None},
            {"architecture": "ada", "memory_type": "GDDR6", "link": None},
            1,
        ),
        (
            {"architecture": "blackwell", "memory_type": "GDDR7", "link": None},
            {"architecture": "blackwell", "memory_type": "HBM3e"},
            2,
        ),
    ],
)
def test_how_far_apart_two_devices_are(mine, other, expected):
    pair = hardware("a", **mine), hardware("b", **other)
    assert (carried.distance(*pair), carried.distance(*pair[::-1])) == (expected, expected)


# --- own, then relatives --------------------------------------------------------------------------------------------

NEAREST_FIRST = [
    (HERE, "calibrated", 0.0), (SIBLING, "projected", 0.1), (COUSIN, "projected", 0.2), (CARD, "projected", 0.3),
    (STRANGER, "projected", 0.4),
]  # fmt: skip


@pytest.mark.parametrize("best", range(len(NEAREST_FIRST)))
def test_the_nearest_fit_answers_and_says_what_it_costs(best):
    pairs = [calibration(profile, fit(place * 1e-6 + 1e-6)) for place, (profile, _, _) in enumerate(NEAREST_FIRST)]
    (found,) = kernels(*pairs[best:][::-1]).values()
    profile, basis, sigma = NEAREST_FIRST[best]
    assert t0_us(found) == best + 1
    assert (found.basis, list(found.errors.values())) == (basis, [sigma] if sigma else [])
    assert best == 0 or list(found.errors) == [f"carried over from {profile.name}"]
    estimate = found.time(PRODUCT, Board(HERE))
    assert estimate.log_sigma == pytest.approx(np.hypot(0.05, sigma))


def test_another_kind_of_device_says_nothing():
    assert kernels(calibration(PROCESSOR, fit())) == {}
    assert kernels() == {}


def test_siblings_are_averaged_on_the_log_scale_and_the_widest_band_counts():
    pairs = calibration(SIBLING, fit(2e-6, log_sigma=0.05)), calibration(TWIN, fit(8e-6, log_sigma=0.09))
    found = kernels(*pairs, calibration(COUSIN, fit(1.0)))[LIBRARY]
    assert t0_us(found) == 4
    assert found.scatter.at(1e-3) == 0.09
    assert list(found.errors) == ["carried over from Sibling, Twin"]


def test_what_fits_leave_out_is_the_familys_and_then_the_forms():
    found = kernels(calibration(SIBLING, fit()))[LIBRARY].values
    assert found == pytest.approx(typical(LIBRARY) | dict(FAMILY.values) | {"t0_s": 4e-6, "flop_efficiency": 0.7})
    alone = kernels(calibration(HERE, fit()), known=shared())[LIBRARY].values
    assert alone == pytest.approx(typical(LIBRARY) | {"t0_s": 4e-6, "flop_efficiency": 0.7})


def test_of_several_calibrations_of_a_device_the_first_counts_key_by_key():
    mine = calibration(HERE, fit(1e-6), id_="mine")
    shipped = calibration(HERE, fit(2e-6), fit(3e-6, VLLM))
    found = kernels(mine, shipped)
    assert {key: t0_us(kernel) for key, kernel in found.items()} == {LIBRARY: 1}  # an engine's part is of the family
    found = kernels(calibration(HERE, fit(1e-6, VLLM), id_="mine"), shipped)
    assert {key: t0_us(kernel) for key, kernel in found.items()} == {VLLM: 1, LIBRARY: 2}
    twice = kernels(calibration(SIBLING, fit(1e-6), id_="mine"), calibration(SIBLING, fit(9e-6)))
    assert t0_us(twice[LIBRARY]) == 1
    assert list(twice[LIBRARY].errors) == ["carried over from Sibling"]


@pytest.mark.parametrize(
    ("of_family", "of_class", "expected"),
    [
        (distance(0.01, 0.02, 0.03, 0.04), {"gemm": distance(0.5, 0.6, 0.7, 0.8)}, 0.02),
        (None, {"gemm": distance(0.5, 0.6, 0.7, 0.8)}, 0.6),
        (None, {"experts": distance(0.5, 0.6, 0.7, 0.8)}, 0.2),
    ],
)
def test_what_carrying_costs_is_the_familys_then_the_classs_then_everybodys(of_family, of_class, expected):
    known = shared(FAMILY.model_copy(update={"carried": of_family}), carried_kernels=of_class)
    found = kernels(calibration(COUSIN, fit()), known=known)[LIBRARY]
    assert list(found.errors.values()) == [expected]


def test_all_collectives_are_one_class():
    key: Key = ("collective.all_reduce", "nccl.all_reduce", "fp16", "fp16")
    known = shared(carried_kernels={"collective": distance(0.5, 0.6, 0.7, 0.8)})
    found = kernels(calibration(COUSIN, kernel_fit(key, {})), known=known)[key]
    assert list(found.errors.values()) == [0.6]


# --- learned residuals ----------------------------------------------------------------------------------------------


def taught(profile, correction: float, t0_s: float = 4e-6, **more):
    return calibration(profile, fit(t0_s, learned="x", **more), residuals={"x": constant(correction)})


def said(found) -> float:
    """Return the factor that learned residuals put on the form."""
    form = found.form.seconds(PRODUCT, Board(HERE), found.values)
    return float(found.seconds(PRODUCT, Board(HERE)) / form)


def test_own_trees_correct_the_form():
    assert said(kernels(taught(HERE, 0.2))[LIBRARY]) == pytest.approx(np.exp(0.2))
    assert said(kernels(taught(HERE, 0.2), taught(SIBLING, -0.5))[LIBRARY]) == pytest.approx(np.exp(0.2))


def test_siblings_trees_are_averaged_cousins_say_nothing():
    pairs = taught(SIBLING, 0.2), taught(TWIN, 0.4)
    assert said(kernels(*pairs)[LIBRARY]) == pytest.approx(np.exp(0.3))
    assert said(kernels(taught(COUSIN, 0.2))[LIBRARY]) == 1.0


def test_few_rows_of_its_own_come_with_siblings_trees():
    few = calibration(HERE, fit(1e-6, rows=20))
    found = kernels(few, taught(SIBLING, 0.2, 9e-6))[LIBRARY]
    assert (t0_us(found), found.basis, said(found)) == (1, "calibrated", pytest.approx(np.exp(0.2)))


def test_many_rows_that_taught_no_trees_come_without_siblings_trees():
    many = calibration(HERE, fit(1e-6, rows=LEAST_TREE_ROWS))  # they were fitted as they are, and trees did not help
    assert said(kernels(many, taught(SIBLING, 0.2))[LIBRARY]) == 1.0


def test_trees_without_their_file_are_none():
    bare = kernels(calibration(HERE, fit(learned="x")))[LIBRARY]
    assert said(bare) == 1.0


# --- which kernels run an operation ---------------------------------------------------------------------------------


def time(where: Device, operation=PRODUCT, wanted=("library/vllm", "library")):
    return where.time(operation, wanted)


def test_the_engines_own_fit_comes_first():
    where = device(calibration(HERE, fit(1e-6), fit(5e-6, VLLM)))
    found, stand_in = where.kernel(PRODUCT, ("library/vllm", "library"))
    assert (t0_us(found), stand_in) == (5, False)
    assert t0_us(where.kernel(PRODUCT, ("library/sglang", "library"))[0]) == 1


def test_what_was_measured_here_beats_what_was_carried_of_the_very_engine():
    where = device(calibration(HERE, fit(1e-6)), calibration(SIBLING, fit(5e-6, VLLM)))
    found, stand_in = where.kernel(PRODUCT, ("library/vllm", "library"))
    assert (t0_us(found), found.basis, stand_in) == (1, "calibrated", False)
    both_carried = device(calibration(SIBLING, fit(1e-6), fit(5e-6, VLLM)))
    assert t0_us(both_carried.kernel(PRODUCT, ("library/vllm", "library"))[0]) == 5


def test_half_precisions_share_their_kernels():
    where = device(calibration(HERE, fit(2e-6)))
    half = dataclasses.replace(PRODUCT, dtype="fp16")
    assert time(where, half).value == time(where).value
    assert time(where, half).basis == "calibrated"
    packed = device(calibration(HERE, kernel_fit(("gemm", "cutlass", "bf16", "int4"), {})))
    half = dataclasses.replace(half, weight_dtype="int4")
    assert packed.kernel(half, ("cutlass/vllm", "cutlass"))[1] is False


def test_the_twin_measured_here_beats_the_dtype_itself_carried_over():
    mine, theirs = calibration(HERE, fit(2e-6)), calibration(COUSIN, fit(9e-6, FP16))
    half = dataclasses.replace(PRODUCT, dtype="fp16")
    assert t0_us(device(mine, theirs).kernel(half)[0]) == 2
    assert t0_us(device(theirs).kernel(half)[0]) == 9
    own = device(calibration(HERE, fit(2e-6), fit(3e-6, FP16)))
    assert t0_us(own.kernel(half)[0]) == 3


def test_kernels_that_stand_in_are_projected_and_wider():
    on = hardware(rates=RATES | {"fp8": 200e12})
    where = device(calibration(on, kernel_fit(CUTLASS, {"t0_s": 3e-6})), on=on)
    operation = dataclasses.replace(PRODUCT, dtype="fp8")
    meant = where.time(operation, ("cutlass/vllm", "cutlass"))
    instead = where.time(operation, ("deepgemm/vllm", "deepgemm", "cutlass"))
    assert instead.value == meant.value
    assert (meant.basis, instead.basis) == ("calibrated", "projected")
    assert instead.errors["stand-in kernels"] == where.stand_in_log_sigma
    assert instead.log_sigma == pytest.approx(np.hypot(0.05, where.stand_in_log_sigma))


def test_without_any_kernel_the_efficiencies_answer():
    where = device(calibration(HERE, fit()))
    found = where.time(Gather(rows=1000, width=64, dtype="fp32"))
    assert found.basis == "assumed"
    assert where.kernel(Gather(rows=1000, width=64, dtype="fp32")) is None


def test_launches_add_up():
    where = device(calibration(HERE, fit()))
    assert time(where, dataclasses.replace(PRODUCT, count=7)).value == pytest.approx(7 * float(time(where).value))


@pytest.mark.parametrize("name", ["memory_bandwidth", "cores"])
def test_a_missing_fact_is_named(name):
    on = hardware(**{name: None})
    with pytest.raises(MissingFactError, match=f"made-up has no {name} in its profile"):
        time(device(calibration(on, fit()), on=on))


def test_a_missing_rate_is_named():
    on = hardware(rates={"fp32": 1e12})
    with pytest.raises(MissingFactError, match="made-up has no dense bf16 rate; its profile knows fp32"):
        time(device(calibration(on, fit()), on=on))


def test_links_and_hosts_are_facts_too():
    assert (Board(HERE).linked, Board(HERE).link_bytes_per_s) == (True, 3e11)
    card = Board(hardware(link=None))
    assert (card.linked, card.link_bytes_per_s) == (False, 3e10)
    assert Board(hardware(link="PCIe5")).linked is False
    with pytest.raises(MissingFactError, match="made-up has no host_bandwidth"):
        _ = Board(hardware(link=None, host_bandwidth=None)).link_bytes_per_s


@pytest.mark.parametrize(
    ("operation", "bound"),
    [
        (Gemm(m=8192, n=8192, k=8192, dtype="bf16"), "compute"),
        (Gemm(m=1, n=8192, k=8192, dtype="bf16"), "memory bandwidth"),
        (Gemm(m=1, n=8, k=8, dtype="bf16"), "kernel launches"),
        (Collective(kind="all_reduce", message_bytes=1e9, devices=8), "interconnect"),
    ],
)
def test_the_bound_of_a_kernel_is_what_alone_would_take_longest(operation, bound):
    assert device(calibration(HERE, fit())).bound([operation]) == bound


# --- families, forms, documents -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "first"),
    [
        (PRODUCT, "library/"),
        (dataclasses.replace(PRODUCT, dtype="fp32"), "simt"),
        (dataclasses.replace(PRODUCT, weight_dtype="int4"), "cutlass/"),
        (DECODE, "fa3.hopper/"),
        (Collective(kind="all_gather", message_bytes=1e6, devices=4), "nccl.all_gather"),
        (ExpertLayer(tokens=8, hidden=64, intermediate=64, experts=8, per_token=2, dtype="bf16"), "triton"),
    ],
)
def test_the_usual_families_of_a_plan(operation, first):
    found = families.usual(operation, HERE)
    assert found[0] == first
    assert len(set(found)) == len(found)
    assert all(key_of(operation, name)[1] == name for name in found)
    assert families.usual(Gather(rows=8, width=8, dtype="fp32"), HERE) == ()


def test_every_family_of_every_shipped_fit_has_a_form():
    for item, _ in catalogue.calibrations():
        for each in item.kernels:
            assert named(each.form, each.family).typical.keys() >= each.values.keys(), each.key
            assert form_of(each.operation, each.family) == each.form


def test_an_unknown_form_is_refused_with_the_known_ones():
    with pytest.raises(UnknownNameError, match="unknown form 'gem'; did you mean gemm"):
        named("gem")
    assert all(
        named(name, "nccl.all_reduce" if name == "collective" else "").parameters for name in (*PLAIN, *OF_FAMILY)
    )


def test_a_band_is_written_and_read():
    band = Scatter(np.log([1e-6, 1e-3]), np.array([0.2, 0.05]))
    knots = carried.knots(band)
    assert [(knot.seconds, knot.log_sigma) for knot in knots] == [(1e-6, 0.2), (1e-3, 0.05)]
    again = carried.scatter(fit(band=knots))
    np.testing.assert_allclose(again.log_times, band.log_times)
    np.testing.assert_allclose(again.log_sigma, band.log_sigma)
    assert carried.knots(Scatter.constant(0.1)) == ()
    assert carried.scatter(fit(log_sigma=0.07)).at(1.0) == 0.07
