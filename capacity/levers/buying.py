"""Levers of where work runs, what is kept, and how devices are bought: no model changes."""

from __future__ import annotations

from collections.abc import Callable

from capacity.levers.lever import Changes, InapplicableError, Lever, Models
from capacity.spec.scenario import Scenario

LOGS_KEPT = 0.4
"""Bytes of logs after compression."""


def _autoscaled(scenario: Scenario, _: Models) -> Changes:
    pools = {stage.pool for stage in scenario.serving.stages}
    missing = sorted(name for name in pools if scenario.serving.pool(name).autoscaling is None)
    if not missing:
        raise InapplicableError("every pool is scaled already")
    return {"serving": {"pools": {name: {"autoscaling": {"by": "utilization"}} for name in missing}}}


def _idle(scenario: Scenario, _: Models) -> Changes:
    if scenario.jobs_on_idle_serving or not (scenario.training or scenario.batch):
        raise InapplicableError("no job is left to move")
    return {"jobs_on_idle_serving": True}


def _sliced(scenario: Scenario, _: Models) -> Changes:
    pools = {stage.pool for stage in scenario.serving.stages if stage.task != "generate"}
    pools -= {stage.pool for stage in scenario.serving.stages if stage.task == "generate"}
    whole = sorted(name for name in pools if scenario.serving.pool(name).slices == 1)
    if not whole:
        raise InapplicableError("no pool without a generator holds whole devices")
    return {"serving": {"pools": {name: {"slices": 2} for name in whole}}}


def _bought(term: str) -> Callable[[Scenario, Models], Changes]:
    def change(scenario: Scenario, _: Models) -> Changes:
        if scenario.pricing.term == term:
            raise InapplicableError(f"devices are bought {term} already")
        return {"pricing": {"term": term}}

    return change


def _anywhere(scenario: Scenario, _: Models) -> Changes:
    if scenario.pricing.region is None and scenario.pricing.provider is None:
        raise InapplicableError("offers of all regions and providers are compared already")
    return {"pricing": {"region": None, "provider": None}}


def _compressed(scenario: Scenario, _: Models) -> Changes:
    kept = scenario.storage.log_bytes_per_request
    if not kept:
        raise InapplicableError("no logs are kept")
    return {"storage": {"log_bytes_per_request": kept * LOGS_KEPT}}


BUYING = (
    Lever(
        id="autoscaling",
        title="replicas follow the day",
        group="placement",
        change=_autoscaled,
        exact=True,
        note="autoscaling",
        assumes="the fleet scales with the rate; check with capacity simulate --day",
    ),
    Lever(
        id="idle-devices",
        title="jobs on idle serving devices",
        group="placement",
        change=_idle,
        exact=True,
        assumes="jobs stop and go on at checkpoints",
    ),
    Lever(
        id="co-location",
        title="two replicas on a device",
        group="placement",
        change=_sliced,
        exact=True,
        note="co-location",
        assumes="the parts are walled off from each other (MIG)",
    ),
    Lever(id="spot", title="spot devices", group="buying", change=_bought("spot"), exact=True, note="spot"),
    Lever(
        id="reserved-1-year",
        title="devices for a year",
        group="buying",
        change=_bought("1-year"),
        exact=True,
        note="reserved",
    ),
    Lever(
        id="reserved-3-year",
        title="devices for three years",
        group="buying",
        change=_bought("3-year"),
        exact=True,
        note="reserved",
    ),
    Lever(id="region", title="offers of any region", group="buying", change=_anywhere, exact=True, note="region"),
    Lever(
        id="feature-compression",
        title="compressed logs",
        group="storage",
        change=_compressed,
        exact=True,
        note="feature-compression",
        assumes="logs shrink to 0.4 of their size",
    ),
)
