"""What a stage of the online pipeline needs to know besides itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from capacity.spec.model import IndexPoints, Model
from capacity.spec.scenario import Scenario
from capacity.spec.serving_engine import ServingEngine
from capacity.spec.stages import Stage
from capacity.work.caching import hit_rate_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a stage needs to know besides itself."""

    scenario: Scenario
    models: Mapping[str, Model]
    tensor_parallel: int = 1
    """Devices that share each product of one replica."""
    engines: tuple[ServingEngine, ...] = ()
    """What is known of LLM engines."""
    points: Mapping[str, IndexPoints] = field(default_factory=dict)
    """Recall by search effort, under the names by which stages call it."""

    def hit_rate(self, stage: Stage) -> float:
        """Return the share of requests that a cache in front of the stage answers: as given, or from its size."""
        if stage.cache is None:
            return stage.cache_hit_rate
        kinds = {"users": self.scenario.audience.users, "items": self.scenario.catalogue.items}
        keys = stage.cache.keys if isinstance(stage.cache.keys, int) else kinds[stage.cache.keys]
        return hit_rate_of(keys, stage.cache.exponent, stage.cache.entries)

    def reaching(self, stage: Stage) -> float:
        """Return the share of requests that reach a stage: the others were answered by a cache of results before it."""
        share = 1.0
        for name in self.scenario.serving.before(stage.name):
            other = self.scenario.serving.stage(name)
            share *= 1 - self.hit_rate(other) * other.cache_answers
        return share
