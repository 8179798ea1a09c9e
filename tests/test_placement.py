"""Placement of tables: bytes counted look-up by look-up, the bound of the greedy way, and what is chosen why."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capacity import catalogue
from capacity.errors import InputError, UnknownNameError
from capacity.work import placement as pl
from capacity.work.sharding import best_sharding

WAYS = st.sampled_from(pl.SHARDINGS)


def table(name: str = "t", **more) -> pl.Table:
    return pl.Table(**({"name": name, "rows": 12, "width": 256, "dtype": "fp32", "lookups": 3} | more))


def exchange(devices: int = 4, batch: float = 12, **more) -> pl.Exchange:
    return pl.Exchange(devices=devices, batch=batch, **more)


def sent(messages) -> dict[tuple[str, str], float]:
    return {(message.kind, message.label): message.message_bytes for message in messages}


# Bytes of a row.


@pytest.mark.parametrize("width", [8, 64, 100, 128])
def test_a_quantized_row_is_as_long_as_that_of_torch(width):
    torch = pytest.importorskip("torch")
    weights = torch.zeros(3, width)
    assert torch.ops.quantized.embedding_bag_byte_prepack(weights).shape[1] == pl.row_bytes(width, "int8")
    assert torch.ops.quantized.embedding_bag_4bit_prepack(weights).shape[1] == pl.row_bytes(width, "int4")


# What is kept, read and sent.


def counted(tables, placement) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Walk through a step look-up by look-up and count rows read, indices got, vectors sent and partial sums.

    Samples look up rows in turn, so that every row is asked for equally often, as row-wise sharding assumes.
    """
    devices, batch = placement.exchange.devices, int(placement.exchange.batch)
    read, indices, vectors, sums = np.zeros(devices), np.zeros(devices), np.zeros(devices), 0.0
    for one in tables:
        shards = [shard for shard in placement.shards if shard.table is one]
        way, block = shards[0].sharding, math.ceil(one.rows / devices)
        turn = itertools.cycle(range(one.rows))
        for home, _ in itertools.product(range(devices), range(batch)):
            rows = [next(turn) for _ in range(int(one.lookups))]
            for row in rows:
                holders = {"replicated": [home], "row-wise": [row // block]}.get(way, [s.device for s in shards])
                for holder in holders:
                    columns = one.width if way in {"replicated", "row-wise"} else one.width / len(shards)
                    read[holder] += pl.row_bytes(columns, one.dtype)
                    indices[holder] += (way != "replicated") * 8
                    vectors[holder] += (not one.pooled and way != "replicated") * columns * 4
            if one.pooled and way in {"table-wise", "column-wise"}:
                for shard in shards:
                    vectors[shard.device] += one.width / len(shards) * 4
            sums += (one.pooled and way == "row-wise") * one.width * 4
    return read, indices, vectors, sums


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    ways=st.lists(WAYS, min_size=1, max_size=4), devices=st.integers(2, 4), pooled=st.booleans(),
    dtype=st.sampled_from(["fp32", "fp16", "int8"]), data=st.data(),
)  # fmt: skip
def test_bytes_are_those_of_a_walk_through_the_step(ways, devices, pooled, dtype, data):
    tables = [
        table(str(i), lookups=data.draw(st.integers(1, 4)), rows=12 * data.draw(st.integers(1, 2)), pooled=pooled,
              dtype=dtype)
        for i in range(len(ways))
    ]  # fmt: skip
    done = pl.place(tables, ways, exchange(devices, 24))  # 24 · devices samples ask for every row equally often
    read, indices, vectors, sums = counted(tables, done)
    assert done.read_bytes.tolist() == pytest.approx(read.tolist())
    forward = sent(done.forward)
    assert forward.get(("alltoall", "indices"), 0) == pytest.approx(indices.max())
    assert forward.get(("alltoall", "vectors"), 0) == pytest.approx(vectors.max())
    assert forward.get(("reduce_scatter", "partial sums"), 0) == pytest.approx(sums)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(ways=st.lists(WAYS, min_size=1, max_size=5), devices=st.integers(1, 5), rows=st.integers(1, 40))
def test_every_row_is_kept_once_and_copies_everywhere(ways, devices, rows):
    tables = [table(str(index), rows=rows + index, state_bytes=4) for index in range(len(ways))]
    done = pl.place(tables, ways, exchange(devices))
    kept = sum(one.kept_bytes * (devices if way == "replicated" else 1) for one, way in zip(tables, ways, strict=True))
    assert done.kept_bytes.sum() == pytest.approx(kept)
    read = sum(one.lookups * pl.row_bytes(one.width, one.dtype) for one in tables)
    assert done.read_bytes.sum() == pytest.approx(done.exchange.samples * read)


def test_the_gradients_return_the_way_the_vectors_came():
    tables = [table(str(index), rows=rows) for index, rows in enumerate((8, 8, 8, 2))]
    done = pl.place(tables, ["table-wise", "column-wise", "row-wise", "replicated"], exchange())
    # 48 samples: a vector of 1,024 byte each; rows of 1,024 byte. The table-wise one and one of two blocks of columns
    # lie apart; copies have 2 rows.
    assert sent(done.forward) == {
        ("alltoall", "indices"): 48 * 3 * 8 + 12 * 3 * 8, ("alltoall", "vectors"): 48 * 1024,
        ("reduce_scatter", "partial sums"): 48 * 1024,
    }  # fmt: skip
    assert sent(done.backward) == {
        ("alltoall", "gradients of vectors"): 48 * 1024, ("all_gather", "gradients of sums"): 48 * 1024,
        ("all_reduce", "gradients of copies"): 2 * 1024,
    }  # fmt: skip
    assert pl.place(tables, ["row-wise"] * 4, exchange(training=False)).backward == ()
    assert pl.place(tables, ["row-wise"] * 4, exchange(devices=1)).forward == ()


def test_vectors_in_half_precision_are_half_as_long():
    tables = [table(str(index)) for index in range(3)]
    wide, slim = (pl.place(tables, ["table-wise"] * 3, exchange(dtype=dtype)) for dtype in ("fp32", "fp16"))
    assert sent(slim.forward)["alltoall", "vectors"] * 2 == sent(wide.forward)["alltoall", "vectors"]
    assert sent(slim.forward)["alltoall", "indices"] == sent(wide.forward)["alltoall", "indices"]


def test_the_busiest_device_gathers_what_it_reads():
    tables = [table(str(index), lookups=index + 1) for index in range(5)]
    done = pl.place(tables, ["table-wise", "row-wise", "table-wise", "replicated", "column-wise"], exchange())
    read = sum(gather.rows * gather.width * 4 for gather in done.busiest)
    device = int(done.load_bytes.argmax())
    assert read == pytest.approx(done.read_bytes[device])
    written = sum(gather.moved_bytes - gather.rows * (gather.width * 4 + 8) for gather in done.busiest)
    assert written == pytest.approx(sum(s.vectors * s.columns * 4 for s in done.shards if s.device == device))


def test_a_device_without_rows_of_a_table_looks_nothing_up_there():
    done = pl.place([table("two", rows=2), table("whole", lookups=9)], ["row-wise", "table-wise"], exchange())
    assert [gather.label for gather in done.busiest] == ["whole"]


# Greedy placement.


@settings(max_examples=60, deadline=None, derandomize=True)
@given(lookups=st.lists(st.integers(1, 30), min_size=1, max_size=7), devices=st.integers(1, 3))
def test_the_largest_load_is_within_the_bound_of_graham(lookups, devices):
    """Rows of 1,024 byte are read; a vector as long is sent, in the time of reading 7.4 of them."""
    tables = [table(str(index), lookups=many) for index, many in enumerate(lookups)]
    done = pl.place(tables, ["table-wise"] * len(tables), exchange(devices))
    loads = [(many + (7.4 if devices > 1 else 0)) * 1024 * 12 * devices for many in lookups]
    best_bytes = min(
        max(
            sum(load for load, place in zip(loads, places, strict=True) if place == device) for device in range(devices)
        )
        for places in itertools.product(range(devices), repeat=len(loads))
    )
    largest = float(done.load_bytes.max())
    assert best_bytes * (1 - 1e-9) <= largest <= best_bytes * (4 / 3 - 1 / (3 * devices)) * (1 + 1e-9)
    assert done.load_bytes.sum() == pytest.approx(sum(loads))
    assert done.imbalance == pytest.approx(largest * devices / sum(loads))


def test_tables_go_where_they_fit():
    heavy, light = table("heavy", rows=10, lookups=9), table("light", rows=90, lookups=1)
    other = table("other", rows=80, lookups=2)
    room_bytes = 100 * 1024
    done = pl.place([heavy, light, other], ["table-wise"] * 3, exchange(2), room_bytes)
    assert done.lacking_bytes(room_bytes) == 0  # by load, light and other would lie together: 170 rows
    assert pl.place([heavy, light, other], ["table-wise"] * 3, exchange(2)).lacking_bytes(room_bytes) == 70 * 1024


def test_columns_are_cut_evenly_and_not_too_slim():
    assert [pl.column_shards(table(width=width), 8) for width in (64, 128, 256, 384, 1000, 4096)] == [1, 1, 2, 3, 5, 8]
    done = pl.place([table(width=512)], ["column-wise"], exchange(4))
    assert done.imbalance == 1
    assert sorted(shard.columns for shard in done.shards) == [128] * 4


# The choice.


def test_each_reason_finds_its_table():
    tables = [
        table("tiny", rows=3), table("wide", width=1024, rows=1000, lookups=50), table("huge", rows=400_000),
        *[table(f"plain {index}", rows=5000) for index in range(4)],
    ]  # fmt: skip
    chosen = {choice.table: choice for choice in best_sharding(tables, exchange(4, 64), 300e6)}
    assert [chosen[name].sharding for name in ("tiny", "wide", "huge", "plain 0")] == [
        "replicated", "column-wise", "row-wise", "table-wise"
    ]  # fmt: skip
    assert "410 MB on a device with room for 300 MB" in chosen["huge"].reason
    # A sample reads 50 rows of 4,096 byte there, and of each of the six other tables 3 of 1,024.
    assert f"read {4 * 204_800 / (204_800 + 18_432):.1f} × as much" in chosen["wide"].reason


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 400), lookups=st.integers(1, 20), width=st.sampled_from([8, 64, 128]),
    devices=st.integers(2, 6), batch=st.integers(1, 100), training=st.booleans(),
)  # fmt: skip
def test_a_table_is_copied_where_that_sends_less(rows, lookups, width, devices, batch, training):
    """As many equal tables as devices lie evenly: the messages of `place` are the mean that the choice takes."""
    tables = [table(str(index), rows=rows, lookups=lookups, width=width) for index in range(devices)]
    step = exchange(devices, batch, training=training)

    def wire(way):
        done = pl.place(tables, [way] * devices, step)
        return sum(message.moved_bytes for message in (*done.forward, *done.backward))

    copied, whole = wire("replicated"), wire("table-wise")
    ways = {choice.sharding for choice in best_sharding(tables, step)}
    assert ways == {"replicated"} if copied < whole else ways == {"table-wise"}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    rows=st.lists(st.integers(1, 5000), min_size=1, max_size=8), devices=st.integers(2, 4), room=st.integers(1, 9000)
)
def test_what_does_not_fit_is_cut_into_rows(rows, devices, room):
    tables = [table(str(index), rows=many) for index, many in enumerate(rows)]
    room_bytes = room * 1024.0
    step = exchange(devices)
    chosen = best_sharding(tables, step, room_bytes)
    done = pl.place(tables, [choice.sharding for choice in chosen], step, room_bytes)
    assert done.lacking_bytes(room_bytes) <= 0 or {choice.sharding for choice in chosen} <= {"row-wise", "replicated"}


def test_a_narrow_heavy_table_is_cut_into_rows_where_reading_outlasts_sending():
    """A sample's partial sums, there and back, are 2 · 3/4 rows on a link: as long as reading 11.1 or 15 rows."""
    for lookups, way in (
        (22, "table-wise"),
        (30, "row-wise"),
    ):  # 22 − 38/4 = 12.5 rows above the mean, 30 − 46/4 = 18.5
        tables = [table("heavy", width=128, rows=9000, lookups=lookups)]
        tables += [table(f"light {index}", width=128, rows=9000, lookups=2) for index in range(8)]
        slow = exchange(4, 64, read_per_sent=10.0)
        assert best_sharding(tables, exchange(4, 64))[0].sharding == "row-wise"
        assert best_sharding(tables, slow)[0].sharding == way
        kept_apart = [pl.Table(name=one.name, rows=one.rows, width=128, dtype="fp32", lookups=one.lookups, pooled=False)
                      for one in tables]  # fmt: skip
        assert best_sharding(kept_apart, slow)[0].sharding == "row-wise"  # nothing to sum


def test_copies_take_little_of_the_room():
    """Tables of 10 KiB: with room for 1,000 KiB copies of 5, whatever their exchange costs; serving sums nothing."""
    tables = [table(str(index), rows=10) for index in range(8)]
    for training in (True, False):
        chosen = best_sharding(tables, exchange(4, 1000, training=training), 1000 * 1024)
        assert [choice.sharding for choice in chosen] == ["replicated"] * 5 + ["table-wise"] * 3
    # 3/4 · 1000 samples · (3 indices of 8 byte + a vector of 1,024): and nothing comes back.
    assert chosen[0].reason == "0 B a step to sum its gradients, 786 kB to exchange vectors"


def test_as_few_tables_as_it_takes_turn_row_wise():
    """Three tables of 50 rows and one of 10 on two devices: two fill one; cut, one leaves room for the others."""
    tables = [table(str(index), rows=rows, lookups=1) for index, rows in enumerate((50, 50, 50, 10))]
    for room, cut in ((105, 0), (85, 1), (80, 4)):
        ways = [choice.sharding for choice in best_sharding(tables, exchange(2, 1), room * 1024)]
        assert ways == ["row-wise"] * cut + ["table-wise"] * (4 - cut)


def test_one_device_keeps_all():
    assert {choice.sharding for choice in best_sharding([table("a"), table("b")], exchange(1))} == {"table-wise"}


def test_mlperf_tables_on_eight_devices():
    """DLRM-DCNv2: 204 million rows of 128 fp32 values, 104.5 GB, more than one device holds; eight hold them."""
    model = catalogue.model("dlrm-dcnv2")
    tables = [
        pl.Table(name=str(index), rows=rows, width=128, dtype="fp32", lookups=many)
        for index, (rows, many) in enumerate(zip(model.tables, model.lookups, strict=True))
    ]
    step, room_bytes = exchange(8, 8192, dtype="fp16"), 60e9
    chosen = best_sharding(tables, step, room_bytes)
    done = pl.place(tables, [choice.sharding for choice in chosen], step, room_bytes)
    assert sum(one.kept_bytes for one in tables) == pytest.approx(104.5e9, rel=0.001)
    assert done.lacking_bytes(room_bytes) < 0
    assert {choice.sharding for choice in chosen} == {"replicated", "table-wise", "row-wise"}
    heavy = [one.lookups for one, choice in zip(tables, chosen, strict=True) if choice.sharding == "row-wise"]
    assert heavy == [100]  # of 214 look-ups of a sample; a mean device reads 27
    whole = pl.place(tables, ["table-wise"] * len(tables), step, room_bytes)
    assert 2 * done.load_bytes.max() < whole.load_bytes.max()
    # Row-wise every table's sums would be reduced from all devices; whole, they are sent once.
    rows = pl.place(tables, ["row-wise"] * len(tables), step, room_bytes)
    assert rows.imbalance < done.imbalance
    assert sum(m.moved_bytes for m in rows.forward) > sum(m.moved_bytes for m in done.forward)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: table(rows=0), "rows ≥ 1"),
        (lambda: table(dtype="fp12"), "unknown dtype"),
        (lambda: exchange(0), "at least one device"),
        (lambda: exchange(dtype="x"), "unknown dtype"),
        (lambda: pl.place([table()], [], exchange()), "1 tables and 0 shardings"),
        (lambda: pl.place([table()], ["diagonal"], exchange()), "unknown sharding 'diagonal'"),
    ],
)
def test_bad_placements_are_refused(call, said):
    with pytest.raises((InputError, UnknownNameError), match=said):
        call()
