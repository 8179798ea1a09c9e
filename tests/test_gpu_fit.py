"""From a run on a GPU to kernels that plans use: numbers that were put in come back out. No GPU is needed."""

from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from command_line import capacity
from replay_cuda import ReplayCuda

from capacity import calibration, catalogue
from capacity.spec.calibration import Calibration, Machine
from capacity.timing import transfer
from capacity.timing.form import Board
from capacity.timing.forms import named
from capacity.work.measurement import Measurement
from capacity.work.operations import Attention, Collective, Gemm, Streaming
from kernels import design, machine, run, suite
from kernels.gpu import Card, replayed
from kernels.timing import Case
from kernels.torch_backend import Backend

MACHINE = Machine(name="a machine", system="Linux")
NONE = calibration.Known((), catalogue.shared())
TRUTH = {"t0_s": 3.4e-6, "flop_efficiency": 0.7, "bandwidth_efficiency": 0.88, "derating": 0.3}


def run_of(hardware: str, dtype: str = "bf16", noise: float = 0.03) -> list[Measurement]:
    """Return what the grid's products, streams and attention take on a device whose numbers are `TRUTH`."""
    board, draw = Board(catalogue.hardware(hardware)), np.random.default_rng(0)
    shapes = [*design.PRODUCTS, (16384, 16384, 16384)]
    work = [Gemm(m=m, n=n, k=k, dtype=dtype) for m, n, k in shapes]
    work += [Attention(batch=b, heads=h, kv_heads=g, query=t, keys=t, head_dim=d, dtype=dtype)
             for b, h, g, t, d in suite.WHOLE_PASSES]  # fmt: skip
    work += [Streaming(kind="norm", elements=rows * width, dtype=dtype) for rows, width in suite.WIDE_STREAMS]

    def seconds(operation) -> float:
        if isinstance(operation, Gemm):
            form = named("gemm")
            return float(form.seconds(operation, board, form.typical | TRUTH))
        if isinstance(operation, Attention):
            form = named("attention.encoder", "fa3.hopper")
            return float(form.seconds(operation, board, form.typical))
        return 2e-6 + operation.moved_bytes / (0.8 * board.bandwidth)

    return [Measurement(str(item), (item,), seconds(item) * draw.lognormal(sigma=noise)) for item in work]


def calibrated(hardware: str, measurements: list[Measurement], known=NONE) -> Calibration:
    return calibration.from_measurements(
        measurements, catalogue.hardware(hardware), MACHINE, known, date(2026, 11, 22)
    )  # fmt: skip


def test_a_run_on_a_gpu_is_fitted_as_kernels_and_plans_use_them():
    found = calibrated("h100-sxm-80gb", run_of("h100-sxm-80gb"))
    fits = {fit.operation: fit for fit in found.kernels}
    assert {name: (fit.family, fit.form) for name, fit in fits.items()} == {
        "gemm": ("library", "gemm"), "attention.encoder": ("fa3.hopper", "attention.encoder"),
    }  # fmt: skip
    assert fits["gemm"].rows == len(design.PRODUCTS) + 1
    for name in ("flop_efficiency", "bandwidth_efficiency"):
        assert fits["gemm"].values[name] == pytest.approx(TRUTH[name], rel=0.15)
    assert fits["gemm"].median_error < 0.06
    assert {fit.operation for fit in found.efficiencies} == {"gemm", "attention.encoder", "streaming.norm"}

    hardware = catalogue.hardware("h100-sxm-80gb")
    device = transfer.device(hardware, "eager", [(found, hardware)], catalogue.shared())
    unseen = Gemm(m=700, n=5120, k=5120, dtype="fp16")  # runs through the same units as bf16
    form = named("gemm")
    truth = float(form.seconds(unseen, Board(hardware), form.typical | TRUTH))
    assert float(device.time(unseen).value) == pytest.approx(truth, rel=0.1)
    assert device.time(unseen).basis == "calibrated"


def test_the_sustained_run_tells_the_derating():
    measurements = run_of("h100-sxm-80gb", noise=0.0)
    with_it = calibrated("h100-sxm-80gb", measurements).kernels
    without = calibrated("h100-sxm-80gb", [m for m in measurements if "16384, n=16384, k=16384" not in m.name]).kernels
    fits = [next(fit for fit in kernels if fit.operation == "gemm") for kernels in (with_it, without)]
    gaps = [abs(np.log(fit.values["derating"] / TRUTH["derating"])) for fit in fits]
    assert gaps[0] < gaps[1]


def test_a_dtype_that_no_relative_has_starts_from_its_twin():
    parent = calibrated("a100-sxm-80gb", run_of("a100-sxm-80gb"))
    known = calibration.Known([(parent, catalogue.hardware("a100-sxm-80gb"))], catalogue.shared())
    few = run_of("v100-sxm-32gb", "fp16")[:4]
    fits = {name: calibrated("v100-sxm-32gb", few, given).kernels[0] for name, given in (("with", known), ("no", NONE))}
    assert fits["with"].key == ("gemm", "library", "fp16", "fp16")
    gaps = {
        name: abs(np.log(fit.values["bandwidth_efficiency"] / TRUTH["bandwidth_efficiency"]))
        for name, fit in fits.items()
    }
    assert gaps["with"] < gaps["no"]
    assert fits["with"].log_sigma >= fits["no"].log_sigma  # few rows claim no more than relatives have shown


def test_few_rows_unknown_cards_and_processors_have_no_kernels():
    some = run_of("h100-sxm-80gb")
    assert calibration.kernel_fits_of(some[:2], catalogue.hardware("h100-sxm-80gb"), NONE) == ()
    unknown = catalogue.hardware("h100-sxm-80gb").model_copy(update={"dense_rates": {}})
    assert calibration.kernel_fits_of(some, unknown, NONE) == ()
    as_if = [replace(item, operations=(replace(item.operations[0], dtype="fp32"),)) for item in some]
    assert calibrated("xeon-8480plus", as_if).kernels == ()


def test_collectives_are_kernels_too():
    link = 450e9
    sizes = [2.0**power for power in range(10, 29, 2)]
    some = [
        Measurement(f"{b}", (Collective(kind="all_reduce", message_bytes=b, devices=8),), 2e-5 + 1.75 * b / link / 0.8)
        for b in sizes
    ]
    (fit,) = calibration.kernel_fits_of(some, catalogue.hardware("h100-sxm-80gb"), NONE)
    assert (fit.operation, fit.form, fit.rows) == ("collective.all_reduce", "collective", 10)


def test_calibrate_on_a_replayed_gpu_ends_in_kernels(monkeypatch, tmp_path):
    """The whole command: cases as graphs on a replayed CUDA, timed in rounds, fitted, written, read back."""
    torch = pytest.importorskip("torch", reason="`capacity calibrate` needs torch")
    cuda = ReplayCuda(torch.cuda)
    monkeypatch.setattr(torch, "cuda", cuda)
    card, hardware = Card(50e6, {"bf16": 989e12}), catalogue.hardware("h100-sxm-80gb")

    def case(item: Measurement) -> Case:
        single = Case(item.name, item.operations, lambda: lambda: cuda.work(item.seconds * 1e3))
        return replayed(single, card)

    monkeypatch.setattr(machine, "detect_gpu", lambda *_: hardware)
    monkeypatch.setattr(Backend, "local", classmethod(lambda cls, *_: cls("cuda", 1)))
    monkeypatch.setattr(Backend, "reference", lambda _: lambda: cuda.work(0.1))
    monkeypatch.setattr(suite, "cases", lambda _, quick: [case(item) for item in run_of(hardware.id)])
    monkeypatch.setattr(suite, "refusals", lambda _: {"fp8": "no such units"})
    monkeypatch.setattr(run, "power", lambda _: "not measured")
    monkeypatch.setattr(cuda, "device_count", lambda: 1, raising=False)
    done = capacity("calibrate", "--device", "cuda", "--quick", "--output", tmp_path / "gpu.yaml")
    assert done.code == 0, done.err
    assert "no products in fp8: no such units" in done.err
    (found, profile) = catalogue.calibrations([str(tmp_path / "gpu.yaml")])[0]
    assert profile.id == hardware.id
    assert {fit.operation for fit in found.kernels} == {"gemm", "attention.encoder"}
    gemm = next(fit for fit in found.kernels if fit.operation == "gemm")
    assert gemm.values["bandwidth_efficiency"] == pytest.approx(TRUTH["bandwidth_efficiency"], rel=0.15)
