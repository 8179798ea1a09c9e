"""Step times as tables: what stands at their grid points, what lies between, and how they grow."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from served_models import PLAIN, device, served, server, table

from capacity import catalogue
from capacity.errors import CapacityError
from capacity.phases import engine_step, generate
from capacity.phases.engine_step import CONTEXTS, QUERIES, STARTS, Limits
from capacity.phases.server import BLOCK_TOKENS, GRAPH_BYTES
from capacity.phases.step_table import Texts
from capacity.spec import names
from capacity.spec.scenario import Scenario
from capacity.spec.serving_engine import ServingEngine
from capacity.timing.slices import sliced
from capacity.work import decoder_step
from capacity.work.decoder_step import Layout
from capacity.work.operations import Collective, Gemm

LIMITS = Limits(tokens=512, sequences=32, context=2048)


def kernels_s(work, what) -> np.ndarray:
    return np.asarray(engine_step.kernels_s(work, what, device()).value)


# Tables at their grid points


def test_at_grid_points_stands_the_sum_of_kernels_and_additions():
    engine = PLAIN.model_copy(update={"kernels": 1.1, "layer": 2e-6, "single_step": 4e-4})
    found, what = server(engine).table, served()
    for tokens in (1, 4, 64, 512):
        kernels = kernels_s(decoder_step.linear(what, float(tokens)), what)
        assert found.linear_s[tokens] == pytest.approx(1.1 * kernels + 32 * 2e-6)
    for sequences in (1, 32):
        decode = kernels_s(decoder_step.attention(what, "decode", float(sequences), 1.0, 2048.0), what)
        assert found.decode_s[sequences, CONTEXTS] == pytest.approx(decode)
        project = kernels_s(decoder_step.vocabulary(what, float(sequences)), what)
        assert found.host_s[sequences] == pytest.approx(1e-3 + 4e-4 + 1e-5 * sequences + 1.1 * project)
    whole = kernels_s(decoder_step.attention(what, "prefill", 1.0, 512.0, 512.0), what)
    assert found.prefill_s[QUERIES, 0] == pytest.approx(whole)
    later = kernels_s(decoder_step.attention(what, "prefill", 1.0, 512.0, 512.0 + 2048), what)
    assert found.prefill_s[QUERIES, STARTS] == pytest.approx(later)


def test_between_the_contexts_that_are_timed_lies_what_kernels_would_take():
    found, what = server().table, served()
    for cell in range(1, CONTEXTS, 7):
        decode = kernels_s(decoder_step.attention(what, "decode", 16.0, 1.0, cell * found.context_step), what)
        assert found.decode_s[16, cell] == pytest.approx(decode, rel=0.05)


def test_nothing_takes_no_time():
    found = server().table
    assert found.linear_s[0] == 0
    assert not found.decode_s[0].any()
    assert not found.prefill_s[0].any()


def test_tables_grow_with_tokens_sequences_and_context():
    found = server().table
    both = (*found.decode_s, *found.decode_s.T, *found.prefill_s, *found.prefill_s.T)
    for values in (found.linear_s, found.host_s, *both):
        assert (values >= 0.9 * np.maximum.accumulate(values)).all()  # kernels run some sizes better than smaller ones
        assert values[-1] == values.max()


def test_exchanges_are_scaled_apart():
    what = served(layout=Layout(tensor=4))
    plain, half = (
        engine_step.table(what, device(), PLAIN.model_copy(update={"exchange": factor}), LIMITS) for factor in (1, 0.5)
    )
    exchange = kernels_s([op for op in decoder_step.linear(what, 64.0) if isinstance(op, Collective)], what)
    assert plain.linear_s[64] - half.linear_s[64] == pytest.approx(float(exchange) / 2)


def test_layers_add_more_where_there_is_more_to_do():
    engine = PLAIN.model_copy(update={"layer": 1e-6, "expert_layer": 1e-5, "quantized_layer": 1e-4})
    added = {}
    for name, what in {
        "dense": served(), "quantized": served(products=names.dtype("fp8")), "experts": served("mixtral-8x7b"),
    }.items():  # fmt: skip
        tables = [engine_step.table(what, device(), item, LIMITS) for item in (PLAIN, engine)]
        added[name] = (tables[1].linear_s[1] - tables[0].linear_s[1]) / 32
    assert added == pytest.approx({"dense": 1e-6, "quantized": 1.01e-4, "experts": 1.1e-5})


def test_a_device_that_no_kernel_was_measured_on_may_have_a_pace_of_its_own():
    own = PLAIN.model_copy(update={"devices": {"h100-sxm-80gb": 0.5}})
    assert server(own).table.linear_s[100] == pytest.approx(0.5 * server().table.linear_s[100])


def test_a_quantized_product_runs_on_the_fastest_kernel_known():
    what = served(products=names.dtype("fp8"))
    work = Gemm(m=64.0, n=4096, k=4096, dtype="fp8", weight_dtype="fp8")
    known = engine_step._known(work, what.products, device())
    assert float(engine_step._time(work, what, device()).value) == min(float(item.value) for item in known)


# Between grid points


def test_a_step_between_grid_points_by_hand():
    """25 new tokens 250 µs; 2.5 sequences of 155 positions 3.875 ms; the host 2 ms."""
    texts = Texts(prompt=150.0, output=10.0)
    assert table().step_s(texts, 2.5, 0.0) == pytest.approx(2.5e-5 + 2.5 * 1.55e-3 + 2e-3)


def test_a_step_that_reads_a_part_of_a_prompt_by_hand():
    """Of a prompt of 40 new tokens after 50 cached ones 20 are read: half of 40 · 1.5 µs."""
    texts = Texts(prompt=90.0, cached=50.0, output=20.0)
    read = table(prompt_s=1e-3)
    assert read.step_s(texts, 1.0, 20.0) == pytest.approx(21e-5 + 1e-3 + 30e-6 + 2e-3 + 0.5e-3)


def test_a_prompt_that_does_not_fit_a_step_is_read_in_several():
    """150 tokens beside 10 sequences: two steps of 75."""
    texts = Texts(prompt=150.0, output=1.0)
    assert table().read_s(texts, 10.0) == pytest.approx(2 * table().step_s(texts, 10.0, 75.0))


def test_a_request_is_its_prompt_and_its_steps():
    texts = Texts(prompt=50.0, output=9.0)
    read_s, step_s = table().read_s(texts, 3.0), table().step_s(texts, 3.0)
    assert table().request_s(texts, 3.0) == pytest.approx(read_s + 8 * step_s)


def test_a_step_is_no_shorter_than_its_floor():
    slow = table(floor_s=np.full(11, 0.5))
    assert slow.step_s(Texts(prompt=10.0, output=2.0), 1.0) == pytest.approx(0.5 + 2e-3)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.1, 10), st.floats(0, 10), st.floats(0, 80))
def test_a_scaled_table_takes_as_many_times_as_long(factor, sequences, prompt):
    texts, plain = Texts(prompt=80.0, output=5.0), table(prompt_s=1e-3)
    assert plain.scaled(factor).step_s(texts, sequences, prompt) == pytest.approx(
        factor * plain.step_s(texts, sequences, prompt)
    )


def test_texts_by_hand():
    texts = Texts(prompt=100.0, output=21.0, beams=4, tokens_per_step=2.0)
    assert texts.steps == 1 + 20 / 2
    assert texts.context == 110.5
    assert texts.kv_tokens == 184


# Servers


def test_room_for_keys_and_values_by_hand():
    found = server(memory_share=0.5)
    widest = 2 * 14_336  # gate and up beside each other
    activations = 512 * (2 * 4096 + widest) * 2
    memory = device().hardware.memory.value
    free = 0.5 * memory - 2 * served().model.parameters - activations - GRAPH_BYTES
    assert found.kv_tokens == pytest.approx(free / 131_072)
    assert server(given_kv_tokens=1234.0).kv_tokens == 1234


def test_slots_by_hand():
    """1,000 positions hold 8 requests of 100 + 50/2 tokens; 32 sequences are 8 requests of 4 beams."""
    small = server(given_kv_tokens=1000.0)
    assert small.slots(Texts(prompt=100.0, output=50.0)) == 8
    assert server(given_kv_tokens=1e9).slots(Texts(prompt=100.0, output=50.0, beams=4)) == 8
    assert server(given_kv_tokens=-5.0).slots(Texts(prompt=100.0, output=50.0)) == 0


def test_an_engine_s_own_limits_hold_where_none_are_given():
    found = server(max_sequences=None, max_batched_tokens=None)
    assert (found.sequences, found.batched_tokens) == (1024, 8192)
    grouped = server(what=served(layout=Layout(attention_data=2)), max_sequences=None)
    assert grouped.sequences <= 2048


def test_no_more_sequences_than_new_tokens_fit_a_step():
    found = server(max_sequences=64, max_batched_tokens=16)
    assert found.sequences == 16
    assert found.table.sequences == 16


def test_a_draft_adds_a_step_of_its_own_for_each_proposed_token():
    draft = server(what=served("qwen3-0.6b"))
    plain, drafted = server().table, server(draft=draft, drafted=3).table
    other = draft.table
    each = other.linear_s[8] + other.decode_s[8, CONTEXTS // 2] + other.host_s[8]
    assert drafted.host_s[8] - plain.host_s[8] == pytest.approx(3 * each)


def test_a_draft_takes_memory_for_its_weights_and_its_own_keys():
    draft = server(what=served("qwen3-0.6b"))
    plain, drafted = server(), server(draft=draft, drafted=3)
    assert drafted.kv_bytes_per_token == plain.kv_bytes_per_token + draft.kv_bytes_per_token
    left = plain.kv_tokens * plain.kv_bytes_per_token - draft.served.weight_bytes
    assert drafted.kv_tokens == pytest.approx(left / drafted.kv_bytes_per_token)


def test_a_device_too_small_for_the_weights_leaves_no_room():
    what = served("llama-3.1-70b")
    assert server(what=what).kv_tokens < 0
    assert BLOCK_TOKENS == 16
    assert server(what=replace(what, layout=Layout(tensor=4))).kv_tokens > 0


# Engines


def test_an_engine_is_chosen_by_version_then_family_then_the_others():
    def entry(engine: str, *versions: str) -> ServingEngine:
        return PLAIN.model_copy(update={"engine": engine, "versions": versions})

    known = (entry("other"), entry("vllm"), entry("vllm", "0.14", "0.15"))
    assert engine_step.chosen(known, "vllm", "0.15.1") is known[2]
    assert engine_step.chosen(known, "vllm", "0.9") is known[1]
    assert engine_step.chosen(known, "vllm") is known[1]
    assert engine_step.chosen(known, "sglang") is known[0]
    with pytest.raises(CapacityError, match="runs an LLM"):
        engine_step.chosen((), "vllm")


# Generate stages of scenarios


def generating(**stage) -> tuple:
    base = {"name": "write", "task": "generate", "model": "llama-3.1-8b", "prompt_tokens": 300, "output_tokens": 100}
    whole = Scenario.model_validate({
        "id": "s", "title": "", "hardware": ["l4"], "catalogue": {"items": 1000}, "audience": {"users": 1000},
        "traffic": {"peak_rate": 10}, "objective": {"latency": 1}, "serving": {"stages": [base | stage]},
    })  # fmt: skip
    return whole.serving.stages[0], whole


def test_speculation_by_hand():
    """Two tokens, each kept with chance one half: 1 + 1/2 + 1/4 a step."""
    texts = generate.texts(*generating(speculation={"tokens": 2, "acceptance": 0.5}))
    assert texts.tokens_per_step == 1.75
    assert texts.verified_tokens == 3
    assert texts.steps == pytest.approx(1 + 99 / 1.75)


def test_a_shared_start_is_cached_but_for_the_last_token():
    assert generate.texts(*generating(prefix_tokens=200)).cached == 200
    assert generate.texts(*generating(prefix_tokens=900)).cached == 299


def test_a_stage_becomes_a_server():
    stage, whole = generating(dtype="bf16", output_cv=0.5, max_sequences=7)
    model = catalogue.model("llama-3.1-8b")
    found = generate.server(stage, model, whole, device(), 2, catalogue.shared().serving_engines)
    assert found.served.layout == Layout(tensor=2, expert_tensor=2)
    assert found.context == 300 + 100 * (1 + 4 * 0.5) + 1
    assert found.sequences == 7
    assert found.served.kv_dtype == "bf16"


def test_experts_are_split_or_shared_out():
    stage, _ = generating(expert_parallel=True)
    assert generate.layout(stage, 8, 4) == Layout(tensor=4, expert_tensor=1, expert=4)
    assert generate.layout(stage, 0, 4) == Layout(tensor=4, expert_tensor=4, expert=1)  # nothing to share out


# Parts of a device


def test_slices_add_up_to_the_whole():
    whole = device("a100-sxm-80gb")
    part = sliced(whole, 4).hardware
    for name in ("memory", "memory_bandwidth", "power"):
        assert 4 * getattr(part, name).value == pytest.approx(getattr(whole.hardware, name).value)
    assert all(
        4 * rate.value == pytest.approx(whole.hardware.dense_rates[name].value)
        for name, rate in part.dense_rates.items()
    )
    assert part.link is None
    assert sliced(whole, 1) is whole


def test_a_slice_takes_longer_but_starts_as_fast():
    whole, part = device("a100-sxm-80gb"), sliced(device("a100-sxm-80gb"), 4)
    large, small = (Gemm(m=m, n=4096, k=4096, dtype="fp16") for m in (8192.0, 1.0))
    ratio = float(part.time(large).value) / float(whole.time(large).value)
    assert ratio == pytest.approx(4, rel=0.2)
    assert 1 <= float(part.time(small).value) / float(whole.time(small).value) <= 4.4
    assert math.isfinite(ratio)
