"""The designed grid: what was chosen, by the forms of the product as oracle, tells a device's numbers best."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from capacity import catalogue
from capacity.timing.fit import NOISE, Sample, fitted
from capacity.timing.form import Board
from capacity.timing.gemm import GEMM
from capacity.work.operations import Gemm
from kernels.design import MOST_BYTES, MOST_FLOP, PRODUCTS, candidates, chosen, remaining, sensitivities

DEVICES = ("t4", "l4", "a100-sxm-80gb", "h100-sxm-80gb", "b200-sxm")
SPREAD = np.array([parameter.spread for parameter in GEMM.parameters])
OWN = sum(not parameter.shared for parameter in GEMM.parameters)
HALF = len(PRODUCTS) // 2
SHAPES = candidates()
SUSTAINED = np.array([[16384.0, 16384.0, 16384.0]])


def launched(shapes: np.ndarray, dtype: str = "bf16") -> Gemm:
    return Gemm(m=shapes[:, 0], n=shapes[:, 1], k=shapes[:, 2], dtype=dtype)


@cache
def rows(device: str, *, sustained: bool = False) -> np.ndarray:
    """Return the sensitivities of every candidate on a device, over the noise of a measurement."""
    board = Board(catalogue.hardware(device))
    dtype = "bf16" if board.hardware.rate("bf16") else "fp16"
    operation = launched(SUSTAINED if sustained else SHAPES, dtype)
    names = [parameter.name for parameter in GEMM.parameters]
    return sensitivities(lambda values: GEMM.seconds(operation, board, values), GEMM.typical, names) / NOISE


def volume(device: str, picked: list[int]) -> float:
    """Return ln det of what the picked products and the sustained run leave open of the device's own numbers."""
    both = np.concatenate([rows(device)[picked], rows(device, sustained=True)])
    return float(np.linalg.slogdet(remaining(both, SPREAD)[:OWN, :OWN])[1])


def numbers() -> list[int]:
    return [int(np.flatnonzero((shape == SHAPES).all(axis=1))[0]) for shape in PRODUCTS]


def drawn(seed: int, size: int) -> list[int]:
    return np.random.default_rng(seed).choice(len(SHAPES), size, replace=False).tolist()


def test_the_own_parameters_come_first():
    assert [parameter.name for parameter in GEMM.parameters[:OWN]] == [
        "t0_s", "flop_efficiency", "bandwidth_efficiency", "derating",
    ]  # fmt: skip
    assert OWN == 4


@pytest.mark.parametrize("device", ["l40s", "h200-sxm-141gb"])  # facts that took no part in the choice
@pytest.mark.parametrize("size", [HALF, len(PRODUCTS)])
def test_the_design_tells_the_four_numbers_better_than_chance(device, size):
    designed = volume(device, numbers()[:size])
    assert designed < min(volume(device, drawn(seed, size)) for seed in range(40))


def test_half_the_design_is_worth_twice_as_many_products_drawn_at_random():
    by_chance = np.median([volume("h200-sxm-141gb", drawn(seed, 2 * HALF)) for seed in range(40)])
    assert volume("h200-sxm-141gb", numbers()[:HALF]) < by_chance


def test_the_stored_design_is_as_good_as_one_chosen_today():
    everything = np.array([rows(device) for device in DEVICES])
    first = chosen(everything, SPREAD, OWN, HALF)
    anew = first + chosen(everything, SPREAD, len(SPREAD), len(PRODUCTS) - HALF, first)
    for device in DEVICES:
        # D-efficiency: how many rows of the best design tell as much as one of the stored
        assert np.exp((volume(device, anew) - volume(device, numbers())) / OWN) > 0.8, [tuple(SHAPES[i]) for i in anew]


@pytest.mark.parametrize("device", ["l40s", "h200-sxm-141gb"])
def test_known_numbers_come_back_from_noisy_rows(device):
    board = Board(catalogue.hardware(device))
    truth = {**GEMM.typical, "t0_s": 3.5e-6, "flop_efficiency": 0.65, "bandwidth_efficiency": 0.9, "derating": 0.4}
    fixed = frozenset(parameter.name for parameter in GEMM.parameters if parameter.shared)

    def missed(shapes: np.ndarray, seed: int) -> float:
        operation = launched(np.concatenate([shapes, SUSTAINED]))
        noise = np.random.default_rng(seed).lognormal(sigma=0.05, size=len(shapes) + 1)
        sample = Sample(operation, board, GEMM.seconds(operation, board, truth) * noise)
        (found,) = fitted(GEMM, [sample], fixed=fixed)
        own = [parameter.name for parameter in GEMM.parameters[:3]]  # the fourth rests on the one sustained run
        return max(abs(np.log(found[name] / truth[name])) for name in own)

    errors = [missed(np.array(PRODUCTS[:HALF], dtype=float), seed) for seed in range(6)]
    by_chance = [missed(SHAPES[drawn(seed, HALF)], seed) for seed in range(6)]
    assert np.median(errors) < 0.1
    assert np.median(errors) < np.median(by_chance)


def test_the_design_covers_what_a_calibration_must_see():
    m, n, k = np.array(PRODUCTS, dtype=float).T
    assert len(set(PRODUCTS)) == len(PRODUCTS)
    assert (2 * (m * k + n * k + m * n) <= MOST_BYTES).all()
    assert (2 * m * n * k <= MOST_FLOP).all()
    assert not np.any(np.array(PRODUCTS)[:, 1:] % 16)  # narrow dtypes ask for it
    for half in (slice(HALF), slice(None)):
        tiny = 2 * m * n * k < 1e8  # nothing but a launch
        skinny = (m <= 64) & (n * k > 1e8)  # weights from memory
        square = (m >= 1024) & (n >= 1024) & (k >= 1024)  # compute
        assert all(kind[half].sum() >= 2 for kind in (tiny, skinny, square))


def test_a_choice_spares_what_was_chosen_before_and_ends_with_the_candidates():
    three = np.array([[[5.0, 0.0], [0.0, 5.0], [1.0, 1.0]]])
    assert chosen(three, np.ones(2), 2, 9) == [0, 1, 2]
    assert chosen(three, np.ones(2), 2, 9, before=[1]) == [0, 2]


def test_nuisance_parameters_are_not_what_is_asked_for():
    # the first row says most, but only of the second parameter; the second separates both
    both = np.array([[[0.1, 9.0], [2.0, 0.0]]])
    assert chosen(both, np.ones(2), 2, 1) == [0]
    assert chosen(both, np.ones(2), 1, 1) == [1]
