"""Small scenarios and their pools on a shipped device, to build, simulate and size."""

from __future__ import annotations

from functools import cache
from typing import Any

from served_models import device

from capacity import catalogue
from capacity.fleet.online import Case
from capacity.fleet.pool import Pool, fitted
from capacity.phases.context import Context
from capacity.spec.scenario import Scenario
from capacity.work.models import resized

ENCODE = {"name": "encode", "task": "encode", "model": "minilm-l6", "tokens": 64, "pool": "encoder"}
RERANK = {"name": "rerank", "task": "encode", "model": "bge-reranker-v2-m3", "tokens": 256, "sequences": 8}
WRITE = {
    "name": "write", "task": "generate", "model": "qwen3-0.6b", "dtype": "bf16", "prompt_tokens": 200,
    "output_tokens": 40, "pool": "writer",
}  # fmt: skip


def host(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "task": "host", "time": "2 ms"} | more


def scenario(*stages: dict[str, Any], serving: dict[str, Any] | None = None, **more: Any) -> Scenario:
    """Return a scenario of these stages at 100 requests/s, 500 ms at p99."""
    base = {
        "id": "s", "title": "", "hardware": ["l4"], "catalogue": {"items": 100_000}, "engine": "fused",
        "audience": {"users": 100_000}, "traffic": {"peak_rate": 100}, "objective": {"latency": 0.5},
        "serving": {"stages": list(stages), "max_batch": 8} | (serving or {}),
    }  # fmt: skip
    return Scenario.model_validate(base | more)


@cache
def _model(name: str):
    return catalogue.model(name)


def pools(wanted: Scenario, hardware: str = "l4") -> list[Pool]:
    """Return the pools of a scenario on a device."""
    names = {name for stage in wanted.serving.stages for name in (getattr(stage, "model", None),) if name}
    names |= {stage.speculation.model for stage in wanted.serving.stages if getattr(stage, "speculation", None)}
    models = {
        name: resized(_model(name), wanted.catalogue.items, wanted.audience.users)
        for name in sorted(filter(None, names))
    }
    context = Context(scenario=wanted, models=models, engines=catalogue.shared().serving_engines)
    found, violations = fitted(context, device(hardware))
    assert not violations
    return found


def case(found: list[Pool], wanted: Scenario, replicas: int = 2, batch: int = 8, **more: Any) -> Case:
    """Return a fleet of as many replicas in each pool."""
    counts, batches = {pool.name: replicas for pool in found}, {pool.name: pool.batch(batch) for pool in found}
    return Case(**{"replicas": counts, "batches": batches, "rate": wanted.traffic.peak_rate} | more)
