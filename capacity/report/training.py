"""Training runs as tables: how devices share them, how well they are used, and where a step's time goes."""

from __future__ import annotations

from capacity.plan import JobPlan, Option, TrainingDetail
from capacity.report.cells import Column, Missing, Row, Table, finite

NO_RATE = Missing("the profile states no dense rate of this dtype")
WHOLE = Missing("timed as a whole")
_RUN = (
    Column("name", "Job"),
    Column("devices", "Devices", "whole"),
    Column("layout", "Shared as"),
    Column("steps", "Steps of a run", "count"),
    Column("step_s", "Time of a step", "seconds"),
    Column("step_low_s", "Low (P5)", "seconds"),
    Column("step_high_s", "High (P95)", "seconds"),
    Column("basis", "Basis"),
    Column("tokens_per_s", "Tokens a device [1/s]", "count"),
    Column("mfu_fraction", "MFU [%]", "fraction"),
    Column("hfu_fraction", "HFU [%]", "fraction"),
    Column("useful_fraction", "Useful wall time [%]", "fraction"),
    Column("bound", "Most of the step"),
    Column("largest_batch", "Largest batch that fits", "count"),
    Column("longest_tokens", "Longest example that fits [tokens]", "count"),
)
_PART = (
    Column("name", "Job"),
    Column("part", "Part of a step"),
    Column("time_s", "Time", "seconds"),
    Column("share_fraction", "Share [%]", "fraction"),
)


def training_table(option: Option) -> Table:
    """Return the training runs: layout, step, utilization, and what takes most of a step."""
    rows = tuple(_run(job, job.training) for job in option.jobs if job.training is not None)
    return Table("Training", _RUN, rows)


def parts_table(option: Option) -> Table:
    """Return where the time of each training step goes, the longest part first."""
    rows: list[Row] = []
    for job in option.jobs:
        parts = job.training.parts_s if job.training is not None else {}
        whole = sum(parts.values())
        rows += [
            {"name": job.name, "part": part, "time_s": seconds, "share_fraction": seconds / whole}
            for part, seconds in sorted(parts.items(), key=lambda item: -item[1])
        ]
    return Table("Where a training step's time goes", _PART, tuple(rows))


def _run(job: JobPlan, found: TrainingDetail) -> Row:
    bound = max(found.parts_s, key=lambda part: found.parts_s[part]) if found.parts_s else WHOLE
    return {
        "name": job.name,
        "devices": job.devices,
        "layout": found.layout,
        "steps": found.steps,
        "step_s": finite(found.step.value, "unknown"),
        "step_low_s": finite(found.step.low, "unknown"),
        "step_high_s": finite(found.step.high, "unknown"),
        "basis": found.step.basis,
        "mfu_fraction": NO_RATE if found.mfu is None else found.mfu,
        "hfu_fraction": NO_RATE if found.hfu is None else found.hfu,
        "useful_fraction": found.useful,
        "bound": bound,
        "tokens_per_s": finite(found.tokens_per_s, "no texts"),
        "largest_batch": finite(found.largest_batch, "not searched"),
        "longest_tokens": finite(found.longest_tokens, "not searched"),
    }
