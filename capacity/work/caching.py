"""How often a cache answers: hit rate from what can be asked for and what the cache holds."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np


@lru_cache(maxsize=256)
def hit_rate_of(catalogue: int, exponent: float, cache_items: int) -> float:
    """Return the share of look-ups that an LRU cache answers, by Che's approximation.

    Parameters
    ----------
    catalogue
        Items that can be asked for; item k with probability ∝ k^(−`exponent`), independently (Zipf).
    cache_items
        Items that the cache holds.

    Notes
    -----
    An item is in the cache if it was asked for within the last T look-ups, with T such that the cache is just full:
    Σ 1 − e^(−pₖT) = C; the hit rate is Σ pₖ(1 − e^(−pₖT)) (Che, Tung & Wang 2002, §III; Fricker et al. 2012 tell why it
    is so good). Ranks beyond 1,024 are taken together in blocks about 1 % wide.

    Examples
    --------
    >>> round(hit_rate_of(1000, 0.0, 100), 6)  # all alike: the share that is held
    0.1
    >>> hit_rate_of(1000, 1.0, 1000)
    1.0
    """
    if cache_items >= catalogue:
        return 1.0
    if cache_items <= 0:
        return 0.0
    edges = np.unique(np.rint(np.geomspace(1024, max(catalogue, 1025), 2_000)).astype(np.int64))
    edges = np.concatenate([np.arange(1, min(catalogue, 1023) + 1), edges[edges <= catalogue], [catalogue + 1]])
    items = np.diff(edges).astype(np.float64)
    weight = ((edges[:-1] + edges[1:] - 1) / 2) ** -exponent
    share = weight / (items @ weight)
    low, high = math.log(cache_items), math.log(cache_items) + 200.0
    for _ in range(80):
        middle = (low + high) / 2
        full = items @ -np.expm1(-share * math.exp(min(middle, 700.0))) > cache_items
        low, high = (low, middle) if full else (middle, high)
    return float((items * share) @ -np.expm1(-share * math.exp(min(low, 700.0))))
