"""A search run variant by variant: here, or in chunks on a Ray cluster; what was kept is not tried again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from capacity.errors import CapacityError
from capacity.fleet.searched import Variant
from capacity.planner import Inputs
from capacity.search.kept import Kept
from capacity.search.tried import Tried, tried
from capacity.spec.space import Space

ENGINES = ("local", "ray")
CHUNK = 4
"""Variants that a task of a cluster tries."""
ATTEMPTS = 4
"""Times that a chunk is tried when its worker dies."""
Told = Callable[[str], None]


def run(
    variants: Sequence[Variant], space: Space, given: Inputs, *, engine: str = "local", folder: Path | None = None,
    told: Told = lambda _: None,
) -> list[Tried]:  # fmt: skip
    """Return every variant tried, in their order; the engine changes how long that takes and nothing else.

    Parameters
    ----------
    engine
        "local", or "ray": a cluster that is running or named in $RAY_ADDRESS, else one on this machine.
    folder
        Where results are kept, and looked for first; None: nowhere.
    told
        Hears how far it is.

    Raises
    ------
    CapacityError
        When Ray is asked for and not installed, or a chunk fails `ATTEMPTS` times.
    """
    kept = Kept(folder).made() if folder is not None else None
    found: dict[int, Tried] = {}
    if kept is not None:
        for place, variant in enumerate(variants):
            known = kept.read(variant, kept.path(variant, space, given))
            if known is not None:
                found[place] = known
    left = [(place, variant) for place, variant in enumerate(variants) if place not in found]
    for place, result in (_on_ray if engine == "ray" else _here)(left, space, given):
        found[place] = result
        if kept is not None:
            kept.write(result, kept.path(result.variant, space, given))
        told(f"{len(found)} of {len(variants)} variants")
    return [found[place] for place in range(len(variants))]


def _here(left: Sequence[tuple[int, Variant]], space: Space, given: Inputs) -> Iterator[tuple[int, Tried]]:
    for place, variant in left:
        yield place, tried(variant, space, given)


def chunk(part: Sequence[tuple[int, Variant]], space: Space, given: Inputs) -> list[tuple[int, Tried]]:
    """Return the variants of a chunk tried."""
    return list(_here(part, space, given))


def _on_ray(left: Sequence[tuple[int, Variant]], space: Space, given: Inputs) -> Iterator[tuple[int, Tried]]:
    try:
        import ray  # noqa: PLC0415  (an optional extra)
    except ImportError:
        raise CapacityError("--engine ray needs Ray: pip install 'capacity-planner[cluster]'") from None
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    task: Any = ray.remote(chunk).options(max_retries=ATTEMPTS - 1)
    shared = (ray.put(space), ray.put(given))
    parts = [left[start : start + CHUNK] for start in range(0, len(left), CHUNK)]
    waiting = [task.remote(part, *shared) for part in parts]
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=1)
        try:
            yield from ray.get(done[0])
        except ray.exceptions.RayError as error:
            raise CapacityError(f"a chunk of the search failed on the cluster: {type(error).__name__}") from None
