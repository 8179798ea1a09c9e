"""How sure the numbers are, as tables: what the bases mean, the efficiencies in use with their errors, formulas."""

from __future__ import annotations

from capacity.plan import Option, Plan
from capacity.report.cells import Cell, Column, Row, Table, finite
from capacity.spec.calibration import Calibration, Composition, Efficiency
from capacity.timing.band import BASES, Basis, Estimate
from capacity.timing.device import Device

MEANINGS: dict[Basis, str] = {
    "measured": "timed on this very hardware for this very operation",
    "calibrated": "from efficiencies fitted to this hardware; its error is that of measurements held out of the fit",
    "projected": "from efficiencies fitted on other hardware, or for another dtype or operation, with a wider band",
    "datasheet": "from a published figure: what a vendor or a price list states",
    "assumed": "nobody measured it; a judgment with the widest band, to be replaced by a calibration",
}
"""Best known first. A sum takes the weakest basis among the parts that matter."""
FORMULAS: tuple[tuple[str, str, str], ...] = (
    (
        "Time of an operation",
        "t0 + ((FLOP ÷ (share of rate × dense rate))ᵖ + (bytes ÷ (share of bandwidth × bandwidth))ᵖ)^(1/p)",
        "Williams, Waterman, Patterson 2009; capacity/timing/roofline.py",
    ),
    (
        "Step of a model",
        "slowdown × sum of its operations; on a GPU at least launches × launch time, on a CPU plus that",
        "capacity/timing/device.py",
    ),
    (
        "90 % band of a time",
        "value × exp(±1.645 σ); errors of one source add, of different sources add in quadrature",
        "capacity/timing/band.py",
    ),
    (
        "Forming a batch",
        "(requests of a batch − 1) × replicas ÷ request rate: the wait of the first one in",
        "capacity/fleet/sizing.py",
    ),
    (
        "Waiting for a free replica",
        "Erlang C for the share that waits; its mean × (variation of arrivals² + of service²) ÷ 2",
        "Erlang 1917; Allen 1990, §5.3; capacity/fleet/queueing.py",
    ),
    (
        "Latency at a percentile",
        "forming + service of every pool + that percentile of the sum of all waits (a convolution)",
        "capacity/fleet/queueing.py",
    ),
    (
        "Replicas",
        "fewest that meet the objective at peak × (1 + headroom), over all batch sizes; spare replicas on top",
        "capacity/fleet/sizing.py, pools.py",
    ),
    (
        "Devices of a job",
        "fewest that finish by the deadline: steps × step time, data-parallel with one all-reduce a step",
        "capacity/phases/training.py, batch.py",
    ),
    (
        "Cost of serving devices",
        "(replicas + spares) × devices of a replica × 730 h × median of the offers found",
        "capacity/money/devices.py",
    ),
    (
        "P10 to P90 of the cost",
        "2,000 draws of the step time and of every price, each from its own band, summed line by line",
        "capacity/money/ownership.py",
    ),
    (
        "USD per 1,000 requests",
        "cost of a month ÷ (peak rate × mean-to-peak × 730 h) × 1,000",
        "capacity/money/ownership.py",
    ),
)
_EFFICIENCY = (
    Column("origin", "From"),
    Column("operation", "Operation"),
    Column("dtype", "Precision"),
    Column("flop_efficiency_fraction", "Of the dense rate", "fraction"),
    Column("bandwidth_efficiency_fraction", "Of the bandwidth", "fraction"),
    Column("t0_s", "Fixed time of a launch", "seconds"),
    Column("median_error_fraction", "Median error, held out", "fraction"),
    Column("band", "90 % band"),
    Column("rows", "Measurements", "count"),
    Column("basis", "Basis"),
    Column("note", "Note"),
)
_COMPOSITION = (
    Column("mode", "Whole models"),
    Column("launch_s", "Host time of a launch", "seconds"),
    Column("slowdown", "Slowdown over the sum", "count"),
    Column("median_error_fraction", "Median error, held out", "fraction"),
    Column("band", "90 % band"),
    Column("rows", "Models", "count"),
    Column("basis", "Basis"),
    Column("note", "Note"),
)


def bases_table() -> Table:
    """Return the words for where a number comes from, best known first."""
    columns = (Column("basis", "Basis"), Column("meaning", "Means"))
    return Table("What the words mean", columns, tuple({"basis": name, "meaning": MEANINGS[name]} for name in BASES))


def formulas_table() -> Table:
    """Return the formulas behind a plan, with their reference and their place in the code."""
    columns = (Column("result", "Result"), Column("formula", "Formula"), Column("where", "Reference and code"))
    rows = tuple({"result": result, "formula": formula, "where": where} for result, formula, where in FORMULAS)
    return Table("Formulas", columns, rows)


def origins_table(plan: Plan) -> Table:
    """Return where the efficiencies of every option come from."""
    columns = (Column("name", "Hardware"), Column("origin", "Efficiencies from"), Column("basis", "Weakest basis"))
    rows = tuple({"name": o.name, "origin": o.origin, "basis": o.basis} for o in plan.options)
    return Table("Efficiencies in use", columns, rows)


def errors_table(option: Option) -> Table:
    """Return what makes the time of every stage and job unsure, each source with its own 90 % band."""
    columns = (
        Column("name", "Stage or job"),
        Column("source", "Source of the error"),
        Column("band", "90 % band"),
        Column("basis", "Basis"),
    )
    times = [(stage.name, stage.time) for stage in option.stages] + [(job.name, job.duration) for job in option.jobs]
    rows: list[Row] = []
    for name, time in times:
        rows += [
            {"name": name, "source": source, "band": band(float(sigma)), "basis": time.basis}
            for source, sigma in time.errors.items()
        ]
        rows.append({"name": name, "source": "all together", "band": band(float(time.log_sigma)), "basis": time.basis})
    return Table("Sources of error", columns, tuple(rows))


def efficiencies_table(device: Device) -> Table:
    """Return the efficiencies a plan uses on one device, with their errors on rows held out of the fit."""
    known = ((device.fitted, "calibration"), (device.shared, "assumed for all devices"))
    rows = tuple(_efficiency(item, origin) for items, origin in known for item in items.values())
    return Table("Operations", _EFFICIENCY, rows)


def _efficiency(item: Efficiency, origin: str) -> Row:
    return {
        "origin": origin,
        "operation": item.operation,
        "dtype": item.dtype,
        "flop_efficiency_fraction": item.flop_efficiency,
        "bandwidth_efficiency_fraction": item.bandwidth_efficiency,
        "t0_s": item.t0,
        **_judged(item),
    }


def compositions_table(device: Device) -> Table:
    """Return how whole models compare with the sum of their operations on one device."""
    rows = tuple(
        {"mode": part.mode, "launch_s": part.launch, "slowdown": part.slowdown, **_judged(part)}
        for part in device.compositions.values()
    )
    return Table("Whole models", _COMPOSITION, rows)


def _judged(part: Efficiency | Composition) -> dict[str, Cell]:
    return {
        "median_error_fraction": finite(part.median_error, "unknown"),
        "band": band(part.log_sigma),
        "rows": part.rows,
        "basis": part.basis,
        "note": part.note,
    }


def band(log_sigma: float) -> str:
    """Return a 90 % band as factors of the value.

    Examples
    --------
    >>> band(0.106)
    '× 0.84 to × 1.19'
    """
    ends = Estimate(1.0, {"all": log_sigma})
    return f"× {float(ends.low):.2f} to × {float(ends.high):.2f}"


def calibration_table(calibration: Calibration) -> Table:
    """Return where a calibration comes from: what was measured, when, on which machine, by which method."""
    machine = calibration.machine
    power = calibration.power if isinstance(calibration.power, str) else calibration.power.method
    said = {
        "calibration": calibration.id,
        "measured": calibration.source,
        "date": calibration.date,
        "engine": calibration.engine,
        "method": f"{calibration.method}, version {calibration.method_version}",
        "machine": f"{machine.name}, {machine.system}" if machine else "not recorded: fitted to a table",
        "power": power,
        "cases that did not settle": ", ".join(calibration.unstable) or "none",
    }
    columns = (Column("fact", "Fact"), Column("value", "Value"))
    return Table(calibration.id, columns, tuple({"fact": key, "value": value} for key, value in said.items()))
