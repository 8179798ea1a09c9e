"""Rows in slower memory while serving: look-ups and memory by hand, what never gets slower, and plans that use it."""

from __future__ import annotations

import pytest
from golden import plan_of
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from capacity import catalogue, planner
from capacity.levers.lever import InapplicableError
from capacity.levers.shelf import lever
from capacity.phases import serving_step
from capacity.phases.context import Context
from capacity.spec.model import DlrmModel
from capacity.spec.scenario import Scenario
from capacity.spec.stages import Tables
from capacity.timing import transfer
from capacity.timing.form import MissingFactError
from capacity.units import parse
from capacity.work import interaction
from capacity.work.models import parameters
from capacity.work.operations import Gather
from capacity.work.placement import row_bytes

SMALL = DlrmModel(
    id="small", name="", source="by hand", family="dlrm", dense_features=4, tables=(9000, 1000), lookups=(3, 1),
    embedding_size=32, bottom=(32,), top=(8, 1), interaction="dot",
)  # fmt: skip
MODELS = {"small": SMALL, **{name: catalogue.model(name) for name in ("bert-id-ranker", "hstu-mlperf")}}
LINK = 1e6  # slow enough that the device's own look-ups hardly matter


def planned(tables: dict, devices: int = 1, slices: int = 1, **more):
    """Return a stage of the small model, 5 candidates a request and 4 rows each, and its context."""
    stage = {"name": "score", "task": "score", "model": "small", "candidates": 5, "tables": tables} | more
    serving = {"stages": [stage], "pools": {"online": {"slices": slices}}}
    scenario = Scenario.model_validate({
        "id": "s", "title": "", "hardware": ["l4"], "catalogue": {"items": 1000}, "engine": "fused",
        "audience": {"users": 1000, "history": 10}, "traffic": {"peak_rate": 10}, "objective": {"latency": 1},
        "serving": serving,
    })  # fmt: skip
    return scenario.serving.stages[0], Context(scenario=scenario, models=MODELS, tensor_parallel=devices)


def device(link: float | None = LINK):
    """Return an L4 whose host is read at `link` byte/s."""
    whole = catalogue.hardware("l4")
    host = whole.host_bandwidth.model_copy(update={"value": link}) if link else None
    return transfer.device(whole.model_copy(update={"host_bandwidth": host}), "fused", [], catalogue.shared())


def seconds(tables: dict, requests: int = 10, link: float | None = LINK, **more) -> float:
    stage, context = planned(tables, **more)
    return float(serving_step.time(stage, requests, device(link), context).value)


def gather_s(requests: int = 10, **more) -> float:
    """Return the time of the device's own look-ups."""
    stage, context = planned({}, **more)
    found = [op for op in serving_step.operations(stage, requests, context) if isinstance(op, Gather)]
    return sum(float(device().time(op).value) for op in found)


def kept(tables: dict, devices: int = 1, **more) -> float:
    stage, context = planned(tables, devices, **more)
    return float(serving_step.memory_parts(stage, 1, context)["weights"])


def lacking(tables: dict, devices: int = 1) -> float:
    return serving_step.lacking_bytes(*planned(tables, devices))


# By hand: 10,000 rows of 32 values at 2 byte are 640 kB; 10 requests · 5 candidates · 4 rows = 200 rows of 64 byte.


def test_rows_in_the_host_are_awaited_over_its_link():
    tables = {"device_memory": 160e3, "host_memory": 640e3, "exponent": 0}  # a quarter of the rows and of the look-ups
    waited = seconds(tables) - seconds({})
    assert waited == pytest.approx(200 * 0.75 * 64 / LINK - gather_s())


@pytest.mark.parametrize("drives", [1, 4])
def test_rows_on_drives_are_read_by_pages(drives):
    tables = {"device_memory": 160e3, "host_memory": 160e3, "drives": drives, "exponent": 0}
    waited = seconds(tables, link=1e15) - seconds({})
    page_s = max(4096 / 6.4e9, 1 / 1.45e6) / drives  # the drive of `tiers.drive_tier`
    assert waited == pytest.approx(max(200 * 0.5 * page_s - gather_s(), 0))
    assert drives > 1 or waited > 0


def test_rows_of_drives_come_over_the_hosts_link_too():
    given_ = {"device_memory": 160e3, "exponent": 0}
    assert seconds(given_ | {"drives": 64}) == pytest.approx(seconds(given_ | {"host_memory": 640e3}))


def test_what_is_read_while_the_device_gathers_costs_nothing():
    assert seconds({"device_memory": 320e3, "host_memory": 320e3}, link=1e15) == seconds({})


def test_slices_share_the_link_and_devices_do_not():
    tables = {"device_memory": 0, "host_memory": 640e3}
    one = 200 * 64 / LINK
    assert seconds(tables, slices=2) - seconds({}, slices=2) == pytest.approx(2 * one - gather_s())
    two = seconds(tables, devices=2) - seconds({}, devices=2)
    assert two == pytest.approx(one / 2 - gather_s() / 2)


def test_an_lru_cache_waits_longer_than_the_best_placement():
    tables = {"device_memory": 160e3, "host_memory": 640e3}
    assert seconds(tables | {"policy": "lru"}) > seconds(tables) > seconds({})


def test_only_kept_rows_take_the_devices_memory():
    dense = parameters(SMALL) - 10_000 * 32
    assert kept({}) == 2 * parameters(SMALL)
    assert kept({"device_memory": 160e3}) == 2 * dense + 160e3
    assert kept({"device_memory": 1e12}) == kept({})
    assert kept({"device_memory": 160e3}, devices=2) == dense + 160e3
    assert kept({"device_memory": 1e12}, devices=2) == parameters(SMALL)
    assert kept({"dtype": "int8"}) == 2 * dense + 10_000 * (32 + 8)
    assert kept({"dtype": "int4"}) == 2 * dense + 10_000 * (16 + 4)


@pytest.mark.parametrize(("dtype", "row"), [("fp32", 128), ("fp16", 64), ("int8", 40), ("int4", 20)])
def test_rows_are_read_as_stored_and_written_as_the_stage_computes(dtype, row):
    stage, context = planned({"dtype": dtype})
    (found,) = [op for op in serving_step.operations(stage, 10, context) if isinstance(op, Gather)]
    assert found.moved_bytes == pytest.approx(200 * (row + 8) + 50 * 2 * 32 * 2)  # 50 pairs, 2 sums of 32 fp16 each
    plain = interaction.score_pairs(SMALL, 50, "fp16", "fused")
    assert serving_step.operations(stage, 10, context)[1:] == plain[1:]
    assert dtype != "fp16" or found == plain[0]


def test_what_lacks_is_what_no_tier_holds():
    assert lacking({}) == lacking({"device_memory": 1e12}) == 0
    assert lacking({"device_memory": 160e3, "host_memory": 100e3}) == 380e3
    assert lacking({"device_memory": 160e3, "host_memory": 100e3, "policy": "lru"}) == 480e3  # the host keeps copies
    assert lacking({"device_memory": 160e3, "host_memory": 100e3}, devices=2) == 60e3
    assert lacking({"device_memory": 0, "drives": 2, "drive_memory": 300e3}) == 40e3
    assert lacking({"device_memory": 0, "drives": 1}) == 0


RANKER, HSTU = MODELS["bert-id-ranker"], MODELS["hstu-mlperf"]


@pytest.mark.parametrize(
    ("task", "model", "rows", "read"),
    [
        ("rank-pairs", RANKER, RANKER.users + RANKER.items, 3 * 5 * 2),
        # 10 events and 5 candidates look up every table, a request its contexts once
        ("score", HSTU, sum(HSTU.tables + HSTU.contexts), 3 * (15 * len(HSTU.tables) + len(HSTU.contexts))),
    ],
)
def test_other_models_look_their_rows_up(task, model, rows, read):
    stage, context = planned({"device_memory": 0, "host_memory": "10 TB"}, task=task, model=model.id)
    mine = serving_step.rows(stage, 3, context)
    assert (mine.number, mine.width, mine.read) == (rows, model.embedding_size, read)
    beside = parameters(model) - rows * model.embedding_size
    assert serving_step.memory_parts(stage, 3, context)["weights"] == 2 * beside
    whole = stage.model_copy(update={"tables": Tables()})
    slow, fast = (float(serving_step.time(one, 3, device(), context).value) for one in (stage, whole))
    gathers = [op for op in serving_step.operations(stage, 3, context) if isinstance(op, Gather)]
    own_s = sum(float(device().time(op).value) for op in gathers)
    assert slow - fast == pytest.approx(read * model.embedding_size * 2 / LINK - own_s)


# What never gets slower

SIZES = st.floats(0, 700e3)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    small=SIZES, more=SIZES, exponent=st.floats(0, 2), policy=st.sampled_from(["static", "lru"]),
    link=st.sampled_from([1e6, 1e9, 1e12]), grown=st.sampled_from(["device_memory", "host_memory"]),
)  # fmt: skip
def test_more_memory_is_never_slower(small, more, exponent, policy, link, grown):
    other = {"device_memory": "host_memory", "host_memory": "device_memory"}[grown]
    fixed = {other: 100e3, "drives": 3, "exponent": exponent, "policy": policy}
    before, after = (seconds(fixed | {grown: size}, link=link) for size in (small, small + more))
    assert after <= before * (1 + 1e-9)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    exponent=st.floats(0, 2), steeper=st.floats(0, 1), room=SIZES, host=SIZES,
    policy=st.sampled_from(["static", "lru"]), link=st.sampled_from([1e6, 1e9]),
)  # fmt: skip
def test_a_steeper_popularity_is_never_slower(exponent, steeper, room, host, policy, link):
    tables = {"device_memory": room, "host_memory": host, "drives": 2, "policy": policy}
    even, steep = (seconds(tables | {"exponent": one}, link=link) for one in (exponent, exponent + steeper))
    assert steep <= even * (1 + 1e-9)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(requests=st.integers(1, 500), room=SIZES, exponent=st.floats(0, 2))
def test_more_requests_take_no_less_and_slower_rows_never_help(requests, room, exponent):
    tables = {"device_memory": room, "host_memory": 640e3, "exponent": exponent}
    assert seconds(tables, requests) >= seconds({}, requests)
    assert seconds(tables, requests + 1) >= seconds(tables, requests)


# What is refused


@pytest.mark.parametrize(
    "tables",
    [{"exponent": -1}, {"drives": 1.5}, {"policy": "random"}, {"dtype": "fp8"}, {"device_memory": -1}, {"dram": 1}],
)
def test_bad_tables_are_refused(tables):
    with pytest.raises(ValidationError):
        Tables.model_validate(tables)


def test_a_device_without_a_host_link_is_refused_with_the_fact_it_lacks():
    with pytest.raises(MissingFactError, match="l4 has no host_bandwidth: stage score"):
        seconds({"device_memory": 0, "host_memory": 640e3}, link=None)
    assert seconds({}, link=None) > 0


# Plans

AT = "serving.stages.score.tables="


def option(tables: str = "", hardware: str = "[l4]"):
    wanted = (f"hardware={hardware}", *([AT + tables] if tables else []))
    return plan_of("dlrm-dcnv2", (), wanted).options[0]


def test_rows_in_the_host_let_small_devices_serve_alone_and_later():
    whole, split = option(), option("{device_memory: 10 GB, host_memory: 200 GB}")
    (before,), (after,) = whole.pools, split.pools
    assert before.devices_per_replica > after.devices_per_replica == 1
    assert after.devices < before.devices
    assert after.memory_bytes["weights"] < 11e9 < before.memory_bytes["weights"]
    assert split.latency_quantile_s > whole.latency_quantile_s


def test_rows_without_a_place_are_a_violation_that_says_how_much_lacks():
    (missed,) = option("{device_memory: 1 GB, host_memory: 2 GB}").violations
    rows = sum(catalogue.model("dlrm-dcnv2").tables) * row_bytes(128, "fp16") / 8  # at best, 8 devices share them
    assert (missed.where, missed.allowed) == ("stage score", 3e9)
    assert missed.needed == pytest.approx(rows)
    assert parse(missed.advice.split(" a device")[0], "bytes") == pytest.approx(rows - 3e9, rel=0.01)


# Levers


def changed(name: str, scenario: str) -> dict:
    given_ = catalogue.scenario(scenario)
    return lever(name).change(given_, planner.inputs(given_).models)


def test_the_lever_keeps_a_tenth_of_the_rows():
    tables = changed("table-tiering", "dlrm-dcnv2")["serving"]["stages"]["score"]["tables"]
    rows = sum(catalogue.model("dlrm-dcnv2").tables) * 256
    assert tables == {"device_memory": pytest.approx(0.1 * rows), "host_memory": rows}
    assert changed("embedding-int8", "dlrm-dcnv2")["serving"]["stages"]["score"] == {"tables": {"dtype": "int8"}}


def test_the_lever_is_refused_where_no_rows_are_looked_up():
    with pytest.raises(InapplicableError, match="no stage looks up rows"):
        changed("table-tiering", "cross-encoder-rerank")
