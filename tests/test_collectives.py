"""Real collectives: gloo between two processes of this machine, and what happens when one dies, hangs or cannot."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from capacity.errors import CapacityError, InputError
from capacity.work.measurement import Measurement
from kernels import collectives
from kernels.collectives import KINDS, MIB, SIZES, Exchange, measure

ROOT = Path(__file__).resolve().parent.parent
SMALL = Exchange(device="cpu", ranks=2, sizes_bytes=(1000, 65_536), repeats=3)


@pytest.fixture(autouse=True)
def nobody_left():
    yield
    assert multiprocessing.active_children() == []


def test_every_kind_between_two_ranks():
    said = []
    found = measure(SMALL, lambda done, total, name: said.append((done, total, name)))
    assert found.skipped == {}
    assert all(isinstance(item, Measurement) and math.isfinite(item.seconds) for item in found.measurements)
    assert all(item.seconds > 0 and item.mode is None for item in found.measurements)
    operations = [item.operations[0] for item in found.measurements]
    assert [(op.kind, op.message_bytes) for op in operations] == [(kind, b) for kind in KINDS for b in (1000, 65_536)]
    assert {op.devices for op in operations} == {2}
    assert len({item.name for item in found.measurements}) == len(operations)
    assert said[0] == (0, 10, "all_reduce of 1000 byte")
    assert [done for done, _, _ in said] == list(range(10))


def test_what_counts_is_the_slowest_rank():
    fast, slow = [("all_reduce", 8, 1e-3), ("send", 8, 5e-3)], [("all_reduce", 8, 2e-3), ("send", 8, 1e-3)]
    three = Exchange(device="cpu", ranks=3, sizes_bytes=(8,))
    joined = collectives._joined(three, [(fast, {}), (slow, {}), (fast, {})])
    assert [item.seconds for item in joined.measurements] == [2e-3, 5e-3]
    assert [item.operations[0].devices for item in joined.measurements] == [3, 2]  # a send has two ends, however many


def test_messages_divide_among_the_ranks():
    cases = Exchange(device="cpu", ranks=3, sizes_bytes=(1024,), kinds=("all_gather",)).cases
    assert cases == (("all_gather", 1032),)  # the next multiple of 3 fp32 values


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_full_run_sees_bandwidth(device):
    assert max(SIZES[device, "full"]) >= 64e6
    assert min(SIZES[device, "full"]) == 1024
    assert max(SIZES["cuda", "full"]) == 256 * MIB


# --- when it goes wrong ---------------------------------------------------------------------------------------------


def test_a_rank_that_dies_is_named():
    def kill_one(done, total, name):
        if done == 1:
            max(multiprocessing.active_children(), key=lambda rank: rank.name).kill()

    with pytest.raises(CapacityError, match=r"^rank [01] of 2 died in all_reduce of \d+ byte \(exit code -9\)$"):
        measure(Exchange(device="cpu", ranks=2, sizes_bytes=(MIB,) * 20, repeats=9), kill_one)


def test_a_rank_that_hangs_is_given_up():
    def stop_one(done, total, name):
        if done == 1:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGSTOP)

    with pytest.raises(CapacityError, match=r"of 2 ranks, rank \d \(in all_reduce of .* said nothing for 3 s: stopped"):
        measure(Exchange(device="cpu", ranks=2, sizes_bytes=(MIB,) * 20, silence_s=3.0), stop_one)


def test_an_interrupt_leaves_nobody_behind():
    def interrupt(done, total, name):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(SMALL, interrupt)


def test_ranks_go_with_their_parent():
    """A parent that is killed cannot clean up: its ranks notice by themselves."""
    code = (
        "import multiprocessing, os, signal\n"
        "from kernels.collectives import Exchange, measure\n"
        "def die(done, total, name):\n"
        "    print(*(rank.pid for rank in multiprocessing.active_children()), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "measure(Exchange(device='cpu', ranks=2, sizes_bytes=(1 << 20,) * 50), die)\n"
    )
    # the ranks hold its standard output: it ends, and run() returns, when the last of them has gone
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert len(done.stdout.split()) == 2


@pytest.mark.parametrize("wrong", [{"ranks": 1}, {"sizes_bytes": ()}, {"sizes_bytes": (0,)}, {"repeats": 0}])
def test_an_exchange_that_makes_no_sense(wrong):
    with pytest.raises(InputError, match="collectives need"):
        Exchange(**({"device": "cpu", "ranks": 2, "sizes_bytes": (8,)} | wrong))


def test_fewer_gpus_than_ranks(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(CapacityError, match="need a GPU each; this machine shows 1"):
        Exchange.local()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert (Exchange.local().ranks, Exchange.local().backend) == (4, "nccl")
    assert (Exchange.local("cpu").ranks, Exchange.local("cpu").backend) == (2, "gloo")


def test_importing_it_loads_no_torch():
    code = "import sys, kernels.collectives; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.gpu
def test_nccl_between_the_gpus_of_this_machine():
    import torch

    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    found = measure(Exchange.local("cuda", quick=True))
    assert found.skipped == {}
    assert len(found.measurements) == len(KINDS) * len(SIZES["cuda", "quick"])
