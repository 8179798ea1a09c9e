"""How a new model or index takes over from the old one: what runs beside it, how long, and how caches are filled."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from capacity.spec.quantity import Count, Duration, Fraction, Name, Seconds, Spec

DAY_S = 86400.0


def _rising(shares: tuple[float, ...]) -> tuple[float, ...]:
    if list(shares) != sorted(set(shares)):
        raise ValueError(f"shares must rise from step to step, got {', '.join(f'{share:g}' for share in shares)}")
    return shares


class Rollout(Spec):
    """The steps of a rollout; every default is assumed: the team's own practice replaces it."""

    shadow_share: Fraction = 0.1
    """Share of the requests that the new fleet answers as well, unseen, before it answers any for real (assumed)."""
    shadow_time: Duration = 3 * DAY_S
    """How long that lasts (assumed); 0: no shadow."""
    ramp: Annotated[tuple[Annotated[Fraction, Field(gt=0, lt=1)], ...], AfterValidator(_rising)] = (0.01, 0.1, 0.5)
    """Shares of the requests that move to the new fleet, step by step (assumed); after the last all of them do."""
    overlap_time: Duration = 6 * DAY_S
    """How long all steps of the ramp take together, each as long as the next (assumed)."""
    standby_time: Duration = DAY_S
    """How long the old fleet then stays, whole and idle, as the way back (assumed)."""
    deadline: Seconds = DAY_S
    """Longest that encoding everything anew, building an index, or filling the caches may each take (assumed)."""
    max_devices: Count = 64
    """Most devices that share one of these jobs (assumed)."""
    build_effort: Count = 200
    """Candidates kept while a graph index is built (efConstruction; 200 is the default of RcppHNSW's `hnsw_build`)."""
    prefill: bool | None = None
    """Whether caches are filled by a job beforehand, or by the requests that miss them; null: whichever costs less."""
    cold: tuple[Name, ...] = ()
    """Stages whose caches start empty beside those of the stages that change: what they hold comes from the old."""
    warm_time: Duration = DAY_S
    """How long a cache of which only the hit rate is known stays empty while all requests ask it (assumed)."""
