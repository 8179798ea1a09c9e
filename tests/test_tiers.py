"""Tiers of memory: hit curves against sums and a simulated cache, times by hand, sweeps."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capacity import catalogue
from capacity.errors import CapacityError, InputError
from capacity.work import placement as pl
from capacity.work import tiers as ti


@pytest.mark.parametrize("exponent", [0.0, 0.6, 1.0, 1.0 + 1e-12, 1.3, 2.5])
@pytest.mark.parametrize("rows", [1, 7, 1024, 1025, 200_000])
def test_popular_share_is_the_sum_of_weights(rows, exponent):
    weights = np.arange(1, rows + 1, dtype=float) ** -exponent
    kept = np.unique(np.clip([0, 1, 3, 500, 1024, 1030, rows // 2, rows], 0, rows))
    exact = np.concatenate([[0], np.cumsum(weights)])[kept] / weights.sum()
    assert ti.most_popular_share(rows, exponent, kept) == pytest.approx(exact, rel=2e-7, abs=1e-15)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(rows=st.integers(1, 10**9), exponent=st.floats(0, 2), parts=st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_hit_curves_rise_to_one_and_static_is_the_upper_one(rows, exponent, parts):
    kept = np.floor(np.sort(parts) * rows)
    static, lru = ti.most_popular_share(rows, exponent, kept), ti.lru_share(rows, exponent, kept)
    assert np.all(np.diff(static) >= 0)
    assert np.all((static >= 0) & (static <= 1 + 1e-12))
    assert np.all(lru <= static + 2e-3)  # Che's blocks of ranks are 1 % wide
    assert ti.most_popular_share(rows, exponent, rows) == ti.lru_share(rows, exponent, rows) == 1


def tier(name: str, capacity_bytes, bytes_per_s: float, **more) -> ti.Tier:
    return ti.Tier(name=name, capacity_bytes=capacity_bytes, bytes_per_s=bytes_per_s, source="by hand", **more)


@pytest.mark.parametrize("policy", ["static", "lru"])
@pytest.mark.parametrize("swept", [0, 1, 2])
def test_a_sweep_of_capacities_is_one_call(policy, swept):
    sizes, capacities = [1e6, 16e6, 64e6], np.array([0.0, 8e6, 64e6, 1e12])

    def look_up(capacity):
        rooms = [capacity if place == swept else size for place, size in enumerate(sizes)]
        tiers = [tier(str(speed), room, speed) for room, speed in zip(rooms, (1e12, 1e10, 1e9), strict=True)]
        return ti.look_up(tiers, 10**6, 64, 1.0, 1e6, policy)

    done = look_up(capacities)
    assert done.shares.shape == done.tier_s.shape == (3, 4)
    assert done.lacking.shape == (4,)
    for column, capacity in enumerate(capacities):
        alone = look_up(capacity)
        assert done.shares[:, column] == pytest.approx(alone.shares)
        assert done.overlapped_s[column] == pytest.approx(alone.overlapped_s)
    assert np.all(np.diff(done.lacking) <= 0)
    assert swept == 2 or np.all(np.diff(done.serial_s) <= 0)
    assert np.all(done.overlapped_s <= done.serial_s)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(rows=st.integers(2, 10**6), exponent=st.floats(0, 1.5), capacities=st.lists(st.integers(0, 10**8), min_size=3,
       max_size=3), policy=st.sampled_from(["static", "lru"]))  # fmt: skip
def test_shares_and_what_lacks_are_all_look_ups(rows, exponent, capacities, policy):
    tiers = [tier(str(index), capacity, 1e9) for index, capacity in enumerate(capacities)]
    done = ti.look_up(tiers, rows, 100, exponent, 1000, policy)
    assert done.shares.sum() + done.lacking == pytest.approx(1)
    assert np.all(done.shares >= -1e-12)
    kept = [capacity // 100 for capacity in capacities]
    holds = (sum(kept) if policy == "static" else max(kept)) >= rows
    assert not holds or float(done.lacking) == pytest.approx(0, abs=1e-12)
    assert done.tier_s.sum() == pytest.approx(1000 * 100 / 1e9 * done.shares.sum())


def test_three_tiers_are_what_a_simulated_cache_finds():
    """Two LRU caches that see every look-up, 50,000 counted after 10,000 to fill them, and the table behind them."""
    rows, exponent, sizes = 2000, 0.9, (100, 500)
    weights = np.arange(1, rows + 1) ** -exponent
    asked = np.random.default_rng(1).choice(rows, 60_000, p=weights / weights.sum())
    caches, found = [OrderedDict[int, None]() for _ in sizes], np.zeros(3)
    for number, row in enumerate(asked):
        level = next((at for at, cache in enumerate(caches) if row in cache), 2)
        found[level] += number >= 10_000
        for cache, size in zip(caches, sizes, strict=True):
            cache[row] = None
            cache.move_to_end(row)
            if len(cache) > size:
                cache.popitem(last=False)
    tiers = [tier(str(size), size * 8, 1e9) for size in (*sizes, rows)]
    done = ti.look_up(tiers, rows, 8, exponent, 1, "lru")
    assert done.shares == pytest.approx(found / found.sum(), abs=0.01)


def test_rows_shorter_than_a_page_cost_a_page():
    drive = ti.drive_tier(1e12)
    assert drive.row_s(256) == drive.row_s(4096) == pytest.approx(max(4096 / 6.4e9, 1 / 1.45e6))
    assert drive.row_s(4097) == pytest.approx(2 * drive.row_s(4096))
    assert ti.drive_tier(1e12, drives=4).row_s(256) * 4 == pytest.approx(drive.row_s(256))
    assert "assumed" in drive.source


def test_tiers_of_a_profile():
    hardware = catalogue.hardware("h100-sxm-80gb")
    near, far = ti.device_tier(hardware, 40e9), ti.host_tier(hardware, 1e12)
    assert (near.bytes_per_s, far.bytes_per_s) == (hardware.memory_bandwidth.value, hardware.host_bandwidth.value)
    assert near.source
    without = hardware.model_copy(update={"host_bandwidth": None})
    with pytest.raises(CapacityError, match="h100-sxm-80gb has no host_bandwidth"):
        ti.host_tier(without, 1e12)


def test_int8_keeps_more_rows_in_the_fast_tier():
    tiers = [tier("fast", 1e9, 3e12), tier("slow", 1e12, 5e10)]
    wide, slim = (ti.look_up(tiers, 10**8, pl.row_bytes(64, dtype), 1.0, 1e6) for dtype in ("fp32", "int8"))
    assert slim.shares[0] > wide.shares[0]
    # 64 values of 4 byte against 64 + 8 byte: the slow tier serves fewer look-ups, of shorter rows.
    assert slim.tier_s[1] < wide.tier_s[1] * 72 / 256


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: tier("x", -1, 1e9), "tier x: a capacity is 0 or more"),
        (lambda: tier("x", 1, 0), "tier x"),
        (lambda: ti.look_up([], 10, 4, 1.0, 1), "at least one tier"),
        (lambda: ti.look_up([tier("x", 1, 1)], 10, 4, 1.0, 1, "random"), "unknown policy 'random'"),
        (lambda: ti.most_popular_share(0, 1.0, 1), "rows ≥ 1"),
    ],
)
def test_bad_tiers_are_refused(call, said):
    with pytest.raises(InputError, match=said):
        call()
