"""Stages as work: padded and packed texts, indexes, look-up scorers, caches, and what they keep in memory."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from capacity import catalogue, documents, references
from capacity.errors import CapacityError, InputError
from capacity.phases import nearest, serving_step, training
from capacity.phases.context import Context
from capacity.phases.transformer_run import Trainer
from capacity.spec.scenario import Scenario
from capacity.spec.training import TrainingJob
from capacity.timing import transfer
from capacity.work import interaction, retrieval, sequential, transformer
from capacity.work.caching import hit_rate_of
from capacity.work.models import architecture, parameters, resized, rows_read, table_rows
from capacity.work.operations import Attention, Collective, total_bytes, total_flop
from capacity.work.padding import Lengths

DCN, HSTU = catalogue.model("dlrm-dcnv2"), catalogue.model("hstu-mlperf")
MODELS = {
    "dlrm-dcnv2": DCN, "hstu-mlperf": HSTU,
    **{name: catalogue.model(name) for name in ("bert-base", "minilm-l6", "bert-id-ranker", "lstm-recommender")},
}  # fmt: skip
EVERY_INDEX = ("exact", "ivf", "hnsw", "pq")


def scenario(*stages: dict, **more) -> Scenario:
    """Return a scenario of these stages; names are given where they have none."""
    named = [{"name": f"stage-{number}"} | stage for number, stage in enumerate(stages)]
    given_ = {
        "id": "s", "title": "", "hardware": ["l4"], "catalogue": {"items": 1_000_000}, "engine": "fused",
        "audience": {"users": 2_000_000, "history": 100}, "traffic": {"peak_rate": 10}, "objective": {"latency": 1},
        "serving": {"stages": named},
    }  # fmt: skip
    return Scenario.model_validate(given_ | more)


def planned(stage: dict, devices: int = 1, **more):
    """Return a stage and its context."""
    one = scenario(stage, **more)
    return one.serving.stages[0], Context(scenario=one, models=MODELS, tensor_parallel=devices)


def work(stage: dict, requests, devices: int = 1, **more):
    found, context = planned(stage, devices, **more)
    return serving_step.operations(found, requests, context)


def memory(stage: dict, requests: int = 1, devices: int = 1) -> dict[str, float]:
    found, context = planned(stage, devices)
    return dict(serving_step.memory_parts(found, requests, context))


def attention(operations) -> float:
    return float(total_flop(op for op in operations if isinstance(op, Attention)))


def drawn(lengths: Lengths, count: int) -> np.ndarray:
    return lengths.at(np.random.default_rng(7).standard_normal(count))


# Encoders

ENCODE = {"task": "encode", "model": "bert-base", "tokens": 128}


def test_texts_of_one_length_are_encoded_as_before():
    plain = transformer.encode(architecture(MODELS["bert-base"]), 8 * 3, 128, "fp16", "fused")
    for batching in ("pad", "pack"):
        assert work(ENCODE | {"sequences": 3, "batching": batching}, 8) == plain


def test_packed_texts_execute_what_each_of_them_needs():
    model, texts = architecture(MODELS["bert-base"]), drawn(Lengths(mean=128, cv=0.6, longest=512), 3000)
    each = transformer.encode(model, np.ones(len(texts)), texts, "fp16", "fused")
    packed = work(ENCODE | {"tokens_cv": 0.6, "batching": "pack"}, len(texts))
    assert float(total_flop(packed)) == pytest.approx(sum(float(np.sum(op.flop * op.count)) for op in each), rel=0.02)
    assert attention(packed) == pytest.approx(
        sum(float(np.sum(op.flop * op.count)) for op in each if isinstance(op, Attention)), rel=0.04
    )


def test_padding_costs_and_buckets_spare_some_of_it():
    varied = ENCODE | {"tokens_cv": 0.6}
    pad, bucket, pack = (
        float(total_flop(work(varied | how, 32))) for how in ({}, {"buckets": [64, 128, 256]}, {"batching": "pack"})
    )
    assert pad > 1.8 * pack > 1.8 * float(total_flop(work(ENCODE, 1))) * 32 * 0.99
    assert pack < bucket < 0.7 * pad


def test_the_longest_text_is_what_the_model_reads():
    stage, context = planned(ENCODE | {"tokens_cv": 3.0})
    assert float(serving_step.lengths(stage, 1e6, context).mean) == pytest.approx(512)


def test_memory_of_activations_holds_the_longest_bucket():
    plain, pad, bucket, pack = (
        memory(ENCODE | how, 16)["activations"]
        for how in (
            {}, {"tokens_cv": 0.6}, {"tokens_cv": 0.6, "buckets": [128]}, {"tokens_cv": 0.6, "batching": "pack"},
        )
    )  # fmt: skip
    assert plain * 0.98 < pack < plain * 1.001  # texts beyond 512 tokens are cut
    assert pad > 2 * pack
    assert bucket >= pad


def test_more_texts_never_take_less_time():
    device = transfer.device(catalogue.hardware("l4"), "fused", [], catalogue.shared())
    stage, context = planned(ENCODE | {"tokens_cv": 0.6})
    times = [float(serving_step.time(stage, requests, device, context).value) for requests in (1, 2, 4, 8, 64)]
    assert times == sorted(times)


# Retrieval

RETRIEVE = {"task": "retrieve", "width": 96, "top": 10}


def test_an_exact_search_is_what_it_was():
    assert work(RETRIEVE, 4) == retrieval.exact_top_k(4, 1_000_000, 96, 10, "fp16", "dot")
    assert memory(RETRIEVE, 4) == {
        "catalogue vectors": 1_000_000 * 96 * 2,
        "scores": 4 * (1_000_000 * 2 + 2 + 8),  # and the best of each query
    }


@pytest.mark.parametrize("kind", EVERY_INDEX)
def test_an_index_does_what_its_formulas_say(kind):
    stage, context = planned(RETRIEVE | {"index": kind, "lists": 4096, "probes": 32, "code_bytes": 48, "effort": 100})
    fields = {"items": 1e6, "width": 96, "dtype": "fp16"}
    expected = {
        "exact": lambda: retrieval.ExactIndex(**fields),
        "ivf": lambda: retrieval.InvertedIndex(**fields, lists=4096, probes=32),
        "pq": lambda: retrieval.InvertedIndex(**fields, lists=4096, probes=32, code_bytes=48),
        "hnsw": lambda: retrieval.GraphIndex(**fields, links=32, breadth=100),
    }[kind]()
    assert nearest.index(stage, context) == expected
    assert serving_step.operations(stage, 4, context) == expected.search(4, 10)
    assert memory(RETRIEVE | {"index": kind})["catalogue vectors"] > 0


def test_a_search_keeps_at_least_what_it_returns():
    stage, context = planned(RETRIEVE | {"index": "hnsw", "top": 500, "effort": 64})
    assert nearest.index(stage, context).breadth == 500


def test_a_search_of_a_graph_waits_for_its_reads():
    device = transfer.device(catalogue.hardware("l4"), "fused", [], catalogue.shared())
    stage, context = planned(RETRIEVE | {"index": "hnsw", "effort": 90})
    work_s = float(device.step(serving_step.operations(stage, 1, context)).value)
    # 90 nodes and 10 on the way down, two reads of half a microsecond at each.
    assert float(serving_step.time(stage, 1, device, context).value) == pytest.approx(work_s + 1e-4)
    many = serving_step.time(stage, np.array([1.0, 64.0]), device, context).value
    assert many[0] == pytest.approx(work_s + 1e-4)
    assert many[0] < many[1] < 64 * many[0]


@pytest.mark.parametrize("kind", EVERY_INDEX)
def test_a_shard_holds_its_part_and_gets_every_query(kind):
    whole, part = ({"index": kind, "shards": shards} for shards in (1, 4))
    ratio = memory(RETRIEVE | whole)["catalogue vectors"] / memory(RETRIEVE | part)["catalogue vectors"]
    assert 3.7 < ratio <= 4  # centroids and codebooks are kept by each
    moved = [float(total_bytes(work(RETRIEVE | how, 8))) for how in (whole, part)]
    assert moved[0] / moved[1] == pytest.approx(1 if kind == "hnsw" else 4, rel=0.3)


def test_devices_that_share_a_graph_all_walk_their_own():
    graph, exact = RETRIEVE | {"index": "hnsw"}, RETRIEVE
    alone, shared = (
        float(total_flop(op for op in work(graph, 8, devices) if not isinstance(op, Collective))) for devices in (1, 4)
    )
    assert shared == pytest.approx(4 * alone)
    alone, shared = (
        float(total_flop(op for op in work(exact, 8, devices) if not isinstance(op, Collective))) for devices in (1, 4)
    )
    assert shared == alone


@pytest.mark.parametrize(
    "wrong", [{"index": "ivf", "lists": 8, "probes": 9}, {"index": "pq", "code_bytes": 97}, {"links": 1}]
)
def test_an_index_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValidationError):
        scenario(RETRIEVE | wrong)


# Look-up scorers

SCORE = {"task": "score", "model": "dlrm-dcnv2", "candidates": 270}
LONG = {"task": "score", "model": "hstu-mlperf", "candidates": 2048}


def test_scorers_execute_their_models():
    assert work(SCORE, 4) == interaction.score_pairs(DCN, 4 * 270, "fp16", "fused")
    assert work(LONG, 2) == sequential.score_candidates(HSTU, 2, 100, 2048, "fp16", "fused")


def test_rows_read_by_hand():
    assert rows_read(DCN, 2, 100, 270) == 2 * 270 * 214
    assert rows_read(HSTU, 3, 100, 20) == 3 * (120 * 2 + 1)


def test_devices_exchange_the_rows_of_their_share():
    (bags,) = [op for op in work(SCORE, 4, devices=8) if isinstance(op, Collective)]
    assert (bags.kind, bags.message_bytes) == ("alltoall", 4 * 270 * 26 * 128 * 2 / 8)  # sums of 26 tables, fp16
    (rows,) = [op for op in work(LONG, 4, devices=8) if isinstance(op, Collective)]
    assert rows.message_bytes == 4 * (2148 * 2 + 1) * 512 * 2 / 8


def test_tables_are_split_and_activations_shared():
    one, eight = memory(LONG, 8), memory(LONG, 8, devices=8)
    assert one["weights"] == 517_136_759_121 * 2 == 8 * eight["weights"]
    # 2,148 positions of 8 requests: two hidden states, gate, value, query and key of 4 heads, three results; fp16.
    assert one["activations"] == 8 * 2148 * (2 * 512 + 4 * (4 * 128 + 3 * 128)) * 2 == 8 * eight["activations"]
    assert memory(SCORE, 4)["activations"] == 4 * 270 * (26 * 128 + 2 * 27 * 128) * 2


@pytest.mark.parametrize("model", ["bert-base", "lstm-recommender"])
def test_a_scorer_of_another_family_is_refused(model):
    with pytest.raises(CapacityError, match="this stage needs 'dlrm' or 'hstu'"):
        work(SCORE | {"model": model}, 1)


def test_a_catalogue_sets_the_tables_of_items_and_users():
    small = resized(HSTU, 1000, 50)
    assert (small.tables, small.contexts) == ((1000, 128), (50,))
    assert parameters(HSTU) - parameters(small) == (table_rows(HSTU) - 1178) * 512
    assert resized(DCN, 1000, 50) is DCN


# Caches


def test_a_cache_answers_as_often_as_its_size_says():
    stage, context = planned(ENCODE | {"cache": {"entries": 1000, "keys": "items", "exponent": 0.9}})
    assert context.hit_rate(stage) == hit_rate_of(1_000_000, 0.9, 1000)
    stage, context = planned(ENCODE | {"cache": {"entries": 500, "keys": "users", "exponent": 1}})
    assert context.hit_rate(stage) == hit_rate_of(2_000_000, 1.0, 500)
    stage, context = planned(ENCODE | {"cache": {"entries": 500, "keys": 500}})
    assert context.hit_rate(stage) == 1
    stage, context = planned(ENCODE | {"cache_hit_rate": 0.25})
    assert context.hit_rate(stage) == 0.25


def test_what_a_cache_answers_is_not_computed():
    device = transfer.device(catalogue.hardware("l4"), "fused", [], catalogue.shared())
    (cached, context), (plain, other) = planned(ENCODE | {"cache_hit_rate": 0.75}), planned(ENCODE)
    assert serving_step.time(cached, 16, device, context) == serving_step.time(plain, 4, device, other)
    assert memory(ENCODE | {"cache_hit_rate": 0.75}, 16) == memory(ENCODE, 4)


# Training of models that are nearly all tables


def job(model: str, **more) -> TrainingJob:
    return TrainingJob.model_validate(
        {"name": "learn", "model": model, "samples": 10**9, "batch": 4096, "optimizer": "sgd", "every": 86_400} | more
    )


def test_a_step_touches_the_rows_it_reads():
    one = scenario(SCORE)
    dense = 26_151_671_809 - 204_184_588 * 128
    # No table has more rows to update than it has, however often a batch reads them: the small ones are all of it.
    rows = sum(min(rows, 4096 * seen) for rows, seen in zip(DCN.tables, DCN.lookups, strict=True))
    assert rows < 4096 * 214
    assert training.touched_parameters(job("dlrm-dcnv2"), DCN, one) == dense + rows * 128
    assert training.touched_parameters(job("dlrm-dcnv2", batch=10**8), DCN, one) == 26_151_671_809
    dense = 517_136_759_121 - 1_010_000_128 * 512
    assert training.touched_parameters(job("hstu-mlperf", batch=8), HSTU, one) == dense + (8 * 132 + 128 + 8) * 512


def test_a_step_is_forward_and_backward_of_the_model():
    one = scenario(SCORE)
    step = training.step_operations(job("dlrm-dcnv2"), DCN, one, 4096)
    assert step == interaction.training_step(DCN, 4096, "bf16")
    step = training.step_operations(job("hstu-mlperf"), HSTU, one, 8)
    assert step == sequential.training_step(HSTU, 8, 100, 32, "bf16")


def test_devices_split_the_tables_and_copy_the_layers():
    one, entries = scenario(SCORE), 204_184_588 * 128
    # Each device updates an eighth of the rows that all batches read together.
    rows = sum(min(rows, 8 * 4096 * seen) for rows, seen in zip(DCN.tables, DCN.lookups, strict=True))
    dense, touched = 26_151_671_809 - entries, rows * 128 / 8
    parts = training.training_memory(job("dlrm-dcnv2", optimizer="adamw"), DCN, one, 8)
    assert parts["weights"] == 2 * (dense + entries / 8)
    assert parts["master weights"] == 4 * dense
    assert parts["gradients"] == 2 * (dense + touched)
    assert parts["optimizer states"] == 8 * (dense + entries / 8)
    layers = 512 + 256 + 128 + 1024 + 1024 + 512 + 256 + 1 + 4 * (3456 + 512)
    assert parts["activations"] == 4096 * (26 * 128 + layers) * 2


@pytest.mark.parametrize(("hardware", "fewest"), [("b200-sxm", 6), ("mi300x", 6), ("mi355x", 4), ("h200-sxm-141gb", 8)])
def test_the_fewest_devices_hold_the_tables(hardware, fewest):
    device = transfer.device(catalogue.hardware(hardware), "fused", [], catalogue.shared())
    learn, one = job("hstu-mlperf", batch=1, samples=1000, max_devices=64), scenario(LONG)
    run = training.fewest_devices(learn, HSTU, one, Trainer(device))
    assert run.devices == fewest
    needed, room = training.fits(run.memory_bytes, device.hardware)
    assert needed <= room < sum(training.training_memory(learn, HSTU, one, fewest - 1).values())


# What a scenario names

SHOP = """\
id: shop
title: A shop
hardware: [h100-sxm-80gb]
catalogue: {items: 1 M}
traffic: {peak_rate: 30/s}
objective: {latency: 2 s}
serving:
  stages:
    - {name: score, task: score, model: dlrm-dcnv2, candidates: 9}
    - name: write
      task: generate
      model: qwen3-8b
      prompt_tokens: 100
      output_tokens: 10
      speculation: {tokens: 3, acceptance: 0.7, model: qwen3-0.6b}
"""


def referred(text: str) -> dict:
    document = documents.parse(text, "shop.yaml")
    return references.models(documents.validated(document, Scenario), document)


def test_a_draft_model_is_looked_up_with_the_others():
    assert set(referred(SHOP)) == {"dlrm-dcnv2", "qwen3-8b", "qwen3-0.6b"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("dlrm-dcnv2", "bert-base", "shop.yaml:9:41: serving.stages.0.model: model bert-base is of family "
         "'transformer'; what it is for needs 'dlrm' or 'hstu'"),
        ("qwen3-0.6b", "qwen3-0.5b", "shop.yaml:15:56: serving.stages.1.speculation.model: unknown model profile "
         "'qwen3-0.5b'; did you mean qwen3-0.6b"),
        ("qwen3-0.6b", "dlrm-dcnv2", "serving.stages.1.speculation.model: model dlrm-dcnv2 is of family 'dlrm'"),
        # 100 + 1,010 tokens; GPT-2 has 1,024 positions
        ("output_tokens: 10\n      speculation: {tokens: 3, acceptance: 0.7, model: qwen3-0.6b}",
         "output_tokens: 1010\n      speculation: {tokens: 3, acceptance: 0.7, model: gpt2}",
         "shop.yaml:13:22: serving.stages.1.prompt_tokens: model gpt2 reads at most 1024 tokens"),
    ],
)  # fmt: skip
def test_a_wrong_name_is_refused_at_its_place(old, new, said):
    assert SHOP.count(old) == 1
    with pytest.raises(InputError) as caught:
        referred(SHOP.replace(old, new))
    assert said in str(caught.value)
