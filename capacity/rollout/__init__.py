"""From two scenarios, before and after, to a rollout: jobs, shadow, ramp, cold caches, and what they cost once."""

from capacity.rollout.change import settings
from capacity.rollout.compose import rolled

__all__ = ["rolled", "settings"]
