"""Training steps of transformers: work, exchanges, time and memory, against hand counts and what must hold."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import hardware

from capacity import catalogue
from capacity.phases import largest, train_memory, train_step, training, transformer_run
from capacity.phases.convergence import samples_to_converge
from capacity.phases.memory import reserve
from capacity.phases.train_memory import MAIN, MIXED, PURE
from capacity.phases.train_step import Job
from capacity.phases.transformer_run import Trainer
from capacity.spec.training import Federation
from capacity.spec.training_engine import TrainingEngine
from capacity.timing import transfer
from capacity.work import exchanges, training_step
from capacity.work.architecture import Transformer
from capacity.work.models import architecture, parameters
from capacity.work.operations import Attention, Gemm
from capacity.work.trained import Method, Parallel, Trained

GB = 1e9
LLAMA: Transformer = replace(architecture(catalogue.model("llama-3.1-8b")), head="language-model")  # type: ignore[arg-type]
SHARED = catalogue.shared()
STEPS = SHARED.training_steps
H100 = transfer.device(catalogue.hardware("h100-sxm-80gb"), "fused", catalogue.calibrations(), SHARED)
PLAIN = TrainingEngine(engine="plain", scores="newest", launch=0, log_sigma=0.1, rows=0)


def trained(**changes) -> Trained:
    return Trained(**({"model": LLAMA, "batch": 1, "tokens": 4096} | changes))


def flop(operations) -> float:
    return sum(float(op.flop * op.count) for op in operations if isinstance(op, Gemm | Attention))


# Work


def test_a_full_step_is_three_forward_passes_and_lora_two_of_the_products():
    whole = trained(fused_attention=False)  # unfused attention is products too
    forward, back = flop(training_step.block(whole)), flop(training_step.block_backward(whole))
    assert back == pytest.approx(2 * forward)
    lora = replace(whole, method=Method(kind="lora", rank=16))
    extra = flop(training_step.block(lora)) / forward - 1
    assert 0 < extra < 0.03
    weights = flop([op for op in training_step.block(whole) if not op.label.startswith("scores")])
    frozen = flop(training_step.block_backward(lora))
    # dx of every product, both gradients of attention's, and three times the updates
    assert frozen == pytest.approx(weights + 2 * (forward - weights) + 2 * extra * forward)


def test_recomputation_repeats_what_it_says():
    plain = trained()
    forward = training_step.block(plain)
    for recompute, again in (("none", 0.0), ("selective", 0.0), ("full", flop(forward))):
        more = flop(training_step.block_backward(replace(plain, recompute=recompute)))
        assert more - flop(training_step.block_backward(plain)) == pytest.approx(again)
    operations = training_step.recomputed(forward, "operations")
    assert not any(isinstance(op, Attention) for op in operations)
    assert 0 < flop(operations) < flop(forward)
    unfused = training_step.block(replace(plain, fused_attention=False))
    scores = training_step.recomputed(unfused, "selective")
    assert flop(scores) == 2 * 2 * 32 * 4096 * 4096 * 128  # Q·Kᵀ and its product with V, 32 heads of 128


def test_tensor_parallelism_splits_products_and_heads():
    one, eight = (training_step.block(trained(parallel=Parallel(tensor=count))) for count in (1, 8))
    assert flop(eight) == pytest.approx(flop(one) / 8)
    assert training_step.own_parameters(trained(parallel=Parallel(tensor=8))) == pytest.approx(LLAMA.parameters / 8)
    assert training_step.own_parameters(trained(parallel=Parallel(pipeline=4))) == pytest.approx(LLAMA.parameters / 4)


def test_an_update_has_the_published_number_of_parameters():
    small = trained(
        model=architecture(catalogue.model("llama-2-7b")),
        method=Method(kind="lora", rank=8, targets=("query", "value")),
    )
    assert training_step.trainable_parameters(small) == 4_194_304  # LitGPT prints it for Llama 2 7B


def test_exchanges_by_hand():
    split = trained(parallel=Parallel(tensor=4, data=2))
    (reduce,) = exchanges.of_a_block(split)
    assert (reduce.kind, reduce.message_bytes, reduce.count) == ("all_reduce", 4096 * 4096 * 2, 4)
    along = trained(parallel=Parallel(tensor=4, sequence=True), recompute="full")
    gather, scatter = exchanges.of_a_block(along)
    assert (gather.count, scatter.count) == (8, 6)
    own = 2 * LLAMA.parameters
    each, once = exchanges.data_parallel(trained(parallel=Parallel(data=8, sharding="full")))
    assert [(op.kind, op.message_bytes, op.count) for op in each] == [
        ("all_gather", own, 2), ("reduce_scatter", own, 1),
    ]  # fmt: skip
    assert once == ()
    each, once = exchanges.data_parallel(trained(parallel=Parallel(data=16, sharding="hybrid")))
    assert [op.devices for op in (*each, *once)] == [8, 8, 2]
    assert once[0].message_bytes == own / 8
    assert exchanges.data_parallel(trained())[1] == ()
    assert exchanges.sends(trained()) == ()
    assert exchanges.sends(trained(parallel=Parallel(pipeline=2, virtual=3)))[0].count == 6


# Time


def step(engine: TrainingEngine = PLAIN, micro_batches: float = 1, **changes) -> train_step.Step:
    return train_step.step(Job(trained=trained(**changes), micro_batches=micro_batches, engine=engine), H100, STEPS)


def test_parts_add_up_and_utilization_is_below_one():
    found = step(parallel=Parallel(data=8, tensor=2, pipeline=2, sharding="optimizer", sequence=True), micro_batches=8)
    assert sum(found.parts_s.values()) == pytest.approx(float(found.time.value))
    assert 0.2 < found.mfu == found.hfu < 1
    assert found.tokens == 8 * 4096 * 8
    assert found.devices == 32
    again = step(recompute="full")
    assert again.hfu > again.mfu


def test_model_flop_is_six_per_parameter_and_token_and_attention():
    found = step()
    products = 6 * (LLAMA.parameters - LLAMA.vocabulary * 4096) * 4096  # the look-up multiplies nothing
    pairs = 4096 * 4097 / 2
    attention = 3 * 2 * 2 * 32 * pairs * 4096  # forward two products, backward four, over visible pairs
    norms = LLAMA.layers * 2 * 4096 + 4096
    assert found.model_flop == pytest.approx(products - 6 * norms * 4096 + attention, rel=1e-6)


def test_a_pipeline_waits_for_its_groups():
    few, many = (
        step(parallel=Parallel(pipeline=4), micro_batches=count).parts_s["pipeline bubble"] / count for count in (4, 32)
    )
    assert few > 3 * many
    chunks = step(parallel=Parallel(pipeline=4, virtual=8), micro_batches=4)
    assert chunks.parts_s["pipeline bubble"] < 4 * few


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(["none", "optimizer", "full"]), st.integers(1, 3), st.integers(0, 3))
def test_more_work_never_takes_less_time(sharding, batch, doubling):
    parallel = Parallel(data=2**doubling, sharding=sharding)
    less, more = (step(parallel=parallel, batch=size).time.value for size in (batch, batch + 1))
    assert less < more
    assert float(step(parallel=parallel, batch=batch, recompute="full").time.value) > float(less)


def test_a_framework_multiplies_what_it_says():
    slow = PLAIN.model_copy(update={"products": 2.0, "elementwise": 3.0, "attention": 4.0})
    one, other = step().parts_s, step(slow).parts_s
    assert other["products"] == pytest.approx(2 * one["products"])
    assert other["attention"] == pytest.approx(4 * one["attention"])
    assert other["element-wise"] == pytest.approx(3 * one["element-wise"])
    flash2 = step(PLAIN.model_copy(update={"scores": "flash2"})).parts_s
    assert flash2["attention"] == pytest.approx(STEPS.flash2["hopper"] * one["attention"])


def test_later_releases_are_faster():
    dated = PLAIN.model_copy(update={"yearly": 0.05, "release": 2025.0})
    job = Job(trained=trained(), micro_batches=1, engine=dated)
    now, later = (train_step.step(replace(job, year=year), H100, STEPS).time.value for year in (2025.0, 2026.0))
    assert float(later / now) == pytest.approx(2.718281828**-0.05)


def test_unknown_frameworks_take_what_the_others_have_in_common():
    assert STEPS.engine("a framework of tomorrow", causal=True).engine == "other"
    assert STEPS.engine("a framework of tomorrow", causal=False).engine == "other-unfused"
    assert STEPS.engine("megatron-bridge", causal=True).engine == "nemo"
    assert STEPS.engine("other", causal=True).log_sigma > STEPS.engine("composer", causal=True).log_sigma


def test_products_are_evaluated_together_as_alone():
    work = [op for op in training_step.block(trained()) if isinstance(op, Gemm)]
    together = train_step._sorted(work, H100)["products"]
    assert together == pytest.approx(sum(float(H100.time(op).value) for op in work))


# Memory


def test_states_by_hand():
    params = LLAMA.parameters
    alone = train_memory.states(trained(), MAIN, "adamw")
    assert alone == {
        "weights": 2 * params, "master weights": 4 * params, "gradients": 4 * params, "optimizer states": 8 * params,
    }  # fmt: skip
    eight = {name: Parallel(data=8, sharding=name) for name in ("optimizer", "gradients", "full")}
    sizes = {
        name: sum(train_memory.states(trained(parallel=each), MIXED, "adamw").values()) / params
        for name, each in eight.items()
    }
    assert sizes == {"optimizer": 4 + 4 + 1, "gradients": 4 + 0.5 + 1, "full": 2}
    assert train_memory.states(trained(), PURE, "adamw-8bit")["optimizer states"] == params
    qlora = train_memory.states(trained(method=Method(kind="qlora"), stored="int4"), PURE, "adamw")
    blocks = LLAMA.layers * LLAMA.layer.parameters
    changed = training_step.trainable_parameters(trained(method=Method(kind="qlora")))
    assert qlora["weights"] == pytest.approx(0.5625 * blocks + 2 * (params - blocks) + 2 * changed)


def test_activations_by_hand():
    # 16h for two RMS norms in and out with fp32 copies, 2h residual, 2(2q + 2k) around attention, 4 inner values of 2
    each = 18 * 4096 + 2 * (2 * 4096 + 2 * 1024) + 8 * 14336
    assert train_memory.bytes_per_token(trained(), MIXED) == each
    assert train_memory.bytes_per_token(trained(recompute="full"), MIXED) == 2 * 4096
    split = trained(parallel=Parallel(tensor=8, sequence=True))
    assert train_memory.bytes_per_token(split, MIXED) == pytest.approx(each / 8)
    scores = train_memory.bytes_per_token(trained(fused_attention=False), MIXED) - each
    assert scores == 5 * 32 * 4096
    first = train_memory.activations(trained(parallel=Parallel(pipeline=4)), 16, MIXED)
    alone = train_memory.activations(trained(), 16, MIXED)
    assert first == pytest.approx(alone)  # four micro-batches of a quarter of the blocks
    assert train_memory.activations(trained(parallel=Parallel(pipeline=4, virtual=2)), 16, MIXED) > first


def test_what_reduces_memory_does():
    def whole(kept=MIXED, optimizer="adamw", **changes) -> float:
        return sum(train_memory.components(trained(**changes), 1, kept, optimizer).values())

    most = whole()
    assert whole(recompute="operations") < most
    assert whole(recompute="full") < whole(recompute="operations")
    assert whole(optimizer="adamw-8bit") < most
    assert whole(method=Method(kind="lora")) < most / 2
    assert whole(parallel=Parallel(data=8, sharding="full")) < most / 2
    assert whole(kept=replace(MIXED, chunked_loss=True)) < most


def test_every_component_has_a_formula():
    found = train_memory.components(trained(parallel=Parallel(data=8, sharding="full")), 1, MIXED, "adamw")
    assert set(found) == set(train_memory.FORMULAS)


def test_devices_that_cannot_talk_are_refused():
    lonely = transfer.device(hardware(link=None, host_bandwidth=None), "fused", catalogue.calibrations(), SHARED)
    job = Job(trained=trained(parallel=Parallel(data=2)), micro_batches=1, engine=PLAIN)
    with pytest.raises(Exception, match="host_bandwidth"):
        train_step.step(job, lonely, STEPS)


# The largest that fits


def test_the_largest_batch_and_length_fit_and_one_more_does_not():
    scenario = catalogue.scenario("semantic-id-generator")
    models = {name: catalogue.model(name) for name in ("semantic-id-1b",)}
    job, trainer = scenario.training[0], Trainer(H100, STEPS, models)
    asked = (models[job.model], scenario, trainer, 1)
    batch, tokens = largest.batch(job, *asked), largest.tokens(job, *asked)
    room = H100.hardware.memory.value - reserve(H100.hardware.memory.value, "gpu")

    def held(**changes) -> float:
        other = job.model_copy(update=changes)
        return sum(transformer_run.memory(other, transformer_run.fitting(other, *asked)).values())

    assert held(batch=batch) <= room < held(batch=batch + 1)
    assert held(tokens=tokens) <= room < held(tokens=tokens + 1)


def test_a_model_reads_no_more_than_its_positions():
    scenario = catalogue.scenario("bert-content-classifier")
    bert = catalogue.model("bert-base")
    assert largest.tokens(scenario.training[0], bert, scenario, Trainer(H100, STEPS), 1) == 512


def test_experts_are_trained_and_shared_out():
    mixtral = replace(architecture(catalogue.model("mixtral-8x7b")), head="language-model")
    alone = step(model=mixtral, parallel=Parallel(data=8, sharding="full"))
    spread = trained(model=mixtral, parallel=Parallel(data=8, expert=8, sharding="full"))
    assert {op.kind for op in exchanges.of_a_block(spread)} == {"alltoall"}
    assert training_step.own_parameters(spread) < mixtral.parameters / 4
    dense = mixtral.active_parameters - mixtral.vocabulary * 4096
    assert alone.model_flop == pytest.approx(6 * dense * 4096, rel=0.1)


def test_auto_shares_no_more_than_it_must():
    scenario = catalogue.scenario("semantic-id-generator")
    models = {name: catalogue.model(name) for name in ("semantic-id-1b", "llama-3.1-70b")}
    job, trainer = scenario.training[0], Trainer(H100, STEPS, models)
    small = transformer_run.fitting(job, models["semantic-id-1b"], scenario, trainer, 8)
    assert small.parallel == Parallel(data=8)
    large = job.model_copy(update={"model": "llama-3.1-70b"})
    found = transformer_run.planned(large, models["llama-3.1-70b"], scenario, trainer, 64)
    assert found.trained.parallel.sharding != "none"
    assert sum(found.memory_bytes.values()) < H100.hardware.memory.value
    assert "sharded" in found.layout


def test_what_stands_beside_a_step_adds_to_it():
    scenario = catalogue.scenario("cross-encoder-rerank")
    job = scenario.training[0]
    models = {"bge-reranker-v2-m3": catalogue.model("bge-reranker-v2-m3"), "bert-base": catalogue.model("bert-base")}
    trainer = Trainer(H100, STEPS, models)

    def parts(**changes) -> dict[str, float]:
        other = job.model_copy(update=changes)
        return transformer_run.planned(other, models[job.model], scenario, trainer, 1).parts_s

    plain = parts()
    assert set(parts(teacher="bert-base")) - set(plain) == {"teacher"}
    assert parts(evaluation=0.5)["evaluation"] == pytest.approx(2 * parts(evaluation=0.25)["evaluation"])
    assert set(parts(offload="optimizer")) - set(plain) == {"offload"}
    assert parts(private=2.0)["privacy"] == pytest.approx(
        sum(plain.values()), rel=1e-4
    )  # parts below 1e-5 are not told
    waited = parts(loader_rate=1.0)
    assert sum(waited.values()) == pytest.approx(job.batch, rel=1e-4)
    found = training.run(job, models[job.model], scenario, trainer, 1)
    federated = job.model_copy(update={"federated": Federation(rounds=10, clients=3, uplink=1e6)})
    longer = training.run(federated, models[job.model], scenario, trainer, 1)
    sent = 10 * 2 * parameters(models[job.model]) * 2 / 1e6
    assert float(longer.duration.value - found.duration.value) == pytest.approx(sent / found.useful)
    assert found.useful < 1


def test_a_published_reference_says_how_long_a_run_is():
    scenario = catalogue.scenario("cross-encoder-rerank")
    model = catalogue.model("bert-base")
    job = scenario.training[0].model_copy(update={"converge": "mlperf-bert", "batch": 448, "tokens": 128})
    reference = catalogue.convergence("mlperf-bert")
    found = training.run(job, model, scenario, Trainer(H100, STEPS, {}, {"mlperf-bert": reference}), 1)
    assert found.steps * 448 == pytest.approx(float(samples_to_converge(reference, 448).value))
