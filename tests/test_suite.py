"""The suite that a calibration runs: every case runs, says what it executes, and measures what scenarios need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest

from capacity import catalogue, documents
from capacity.phases import batch, serving_step, training
from capacity.phases.context import Context
from capacity.spec.scenario import Scenario
from capacity.spec.stages import HostStage
from capacity.timing import transfer
from capacity.timing.device import FALLBACK_OPERATION
from capacity.work.models import resized
from capacity.work.operations import Collective, Operation, total_counter_flop
from capacity.work.optimizer import optimizer_step

torch = pytest.importorskip("torch", reason="kernels need torch: pip install 'capacity-planner[calibrate]'")
pytest.importorskip("transformers", reason="the suite's encoders need transformers")
real = pytest.importorskip("real_modules")
from kernels import encoders, products, recommenders, suite  # noqa: E402
from kernels.torch_backend import Backend  # noqa: E402

CPU, META = Backend("cpu", 1), Backend("meta", 1)
SHARED = catalogue.shared()
SCENARIOS = sorted(documents.catalogue("scenarios"))
QUICK, FULL = list(suite.cases(CPU, quick=True)), list(suite.cases(CPU, quick=False))
NAMES = [case.name for case in QUICK]


@pytest.mark.parametrize("name", NAMES)
def test_every_quick_case_builds_and_runs(name, monkeypatch):
    monkeypatch.setattr(products, "ROTATING_BYTES", 1.0)  # two copies of the weights do for a single run
    case = QUICK[NAMES.index(name)]
    with torch.no_grad() if case.mode is None else torch.enable_grad():
        case.build()()


@pytest.mark.parametrize("cases", [QUICK, FULL], ids=["quick", "full"])
def test_names_are_unique_and_every_case_says_what_it_executes(cases):
    assert [name for name, times in Counter(case.name for case in cases).items() if times > 1] == []
    assert all(case.operations for case in cases)
    # a single operation is what a fit reads: only whole models have several
    assert {case.name for case in cases if len(case.operations) > 1} == {case.name for case in cases if case.mode}


def test_the_full_suite_begins_with_what_the_quick_one_measures():
    quick, full = {case.name: case for case in QUICK}, {case.name: case for case in FULL}
    assert quick.keys() <= full.keys()
    assert all(full[name].operations == case.operations for name, case in quick.items())


def test_every_class_has_an_efficiency_before_anything_is_measured():
    hardware = catalogue.hardware("xeon-8480plus")
    device = transfer.device(hardware, "eager", [], SHARED)
    for case in FULL:
        for operation in case.operations:
            assert float(device.time(operation).value) > 0, case.name


# --- what scenarios need --------------------------------------------------------------------------------------------


def needed(scenario: Scenario, devices: int = 1) -> Iterable[Operation]:
    """Yield what every stage and job of a scenario executes, `devices` of them sharing a replica."""
    parts = (*scenario.serving.stages, *scenario.training, *scenario.batch)
    named = {part.model for part in parts if getattr(part, "model", None)}
    sizes = scenario.catalogue.items, scenario.audience.users
    models = {name: resized(catalogue.model(name), *sizes) for name in named}
    runs = (getattr(stage, "points", None) for stage in scenario.serving.stages)
    points = {name: catalogue.index_points(name) for name in runs if name}
    context = Context(scenario=scenario, models=models, tensor_parallel=devices, points=points)
    for stage in scenario.serving.stages:
        yield from serving_step.operations(stage, 4, context)
    for job in scenario.training:
        yield from training.step_operations(job, models[job.model], scenario, job.batch)
        yield from optimizer_step(training.touched_parameters(job, models[job.model], scenario), job.optimizer)
    for job in scenario.batch:
        yield from batch.batch_operations(job, models.get(job.model), scenario, job.batch)


def stands_in(operation: str, known: set[str]) -> str | None:
    """Return the class of `known` whose efficiency `operation` takes: its own, or that of a named stand-in."""
    seen: set[str] = set()
    while operation not in known:
        if operation in seen or operation not in FALLBACK_OPERATION:
            return None
        seen.add(operation)
        operation = FALLBACK_OPERATION[operation]
    return operation


MEASURED = {case.operations[0].operation for case in QUICK if case.mode is None}
VARIANTS = [(name, None) for name in SCENARIOS]
VARIANTS += [(name, override) for name in SCENARIOS for override in sorted(catalogue.scenario(name).overrides)]


@pytest.mark.parametrize(("name", "override"), VARIANTS)
def test_what_a_scenario_executes_is_measured_or_has_a_stand_in(name, override):
    scenario = catalogue.scenario(name, [override] if override else [])
    work = list(needed(scenario))
    assert work or all(isinstance(stage, HostStage) for stage in scenario.serving.stages)
    assert {op.operation for op in work if stands_in(op.operation, MEASURED) is None} == set()


def test_only_these_classes_rest_on_a_stand_in():
    """A class that starts to need one is a decision, not an accident."""
    work = [op for name in SCENARIOS for op in needed(catalogue.scenario(name))]
    assert {op.operation for op in work} - MEASURED <= {"gemm.grouped"}


def test_what_devices_tell_each_other_is_assumed_and_named():
    assumed = {item.operation for item in SHARED.efficiencies}
    work = [op for name in SCENARIOS for op in needed(catalogue.scenario(name), devices=2)]
    exchanged = {op.operation for op in work if isinstance(op, Collective)}
    assert exchanged
    assert {stands_in(operation, assumed) for operation in exchanged} == {"collective"}


# --- whole models ---------------------------------------------------------------------------------------------------


def on_meta(shape: encoders.EncoderShape):
    """Return the module that the suite times, without storage, its attention as the two products it is."""
    module = encoders.built(shape.config(), META, shape.dtype)
    module.set_attn_implementation("eager")  # a fused kernel would hide its products from the counter
    return module


@pytest.mark.parametrize("shape", suite.ENCODERS, ids=lambda shape: shape[0])
def test_the_operations_of_a_whole_model_are_what_torch_counts(shape):
    encoder = encoders.EncoderShape(*shape, "fp32")
    module = on_meta(encoder)
    counted = real.counted(lambda: real.run(module, encoder.batch, encoder.tokens))
    case = encoders.encoder_case(encoder, META)
    assert counted.total == total_counter_flop(case.operations) > 0
    assert case.mode == "inference"


@pytest.mark.parametrize("shape", suite.FINE_TUNING, ids=lambda shape: f"{shape[1]}x{shape[2]}")
def test_the_operations_of_a_training_step_are_what_torch_counts(shape):
    encoder = encoders.EncoderShape(*shape, "fp32")
    module = on_meta(encoder).train()

    def step() -> None:
        encoders.loss(real.run(module, encoder.batch, encoder.tokens)).backward()

    case = encoders.fine_tuning_case(encoder, META)
    assert real.counted(step, gradients=True).total == total_counter_flop(case.operations) > 0
    assert case.mode == "training"


@pytest.mark.parametrize("shape", suite.TOWERS, ids=lambda shape: str(shape[-1]))
def test_the_operations_of_two_towers_are_what_torch_counts(shape):
    towers = recommenders.TowersShape(*shape)
    module, rows = recommenders.towers(towers.model, META, sparse=False), real.tokens(towers.batch, 1)

    def step() -> None:
        recommenders.in_batch_loss(module, rows, rows).backward()

    case = recommenders.two_tower_case(towers, META)
    assert real.counted(step, gradients=True).total == total_counter_flop(case.operations) > 0
    assert case.mode == "training"


@pytest.mark.parametrize("shape", suite.HISTORIES, ids=lambda shape: str(shape[0]))
def test_the_operations_of_a_masked_history_are_what_torch_counts(shape):
    histories = recommenders.HistoryShape(*shape)
    module = recommenders.masked_model(histories.model, META)
    module.set_attn_implementation("eager")
    module.base_model.warn_if_padding_and_no_attention_mask = lambda *_: None  # it would look at token values
    history, masked = (real.tokens(histories.batch, count) for count in (histories.length, histories.masked))

    def step() -> None:
        recommenders.masked_loss(module, history, masked).backward()

    case = recommenders.bert4rec_case(histories, META)
    assert real.counted(step, gradients=True).total == total_counter_flop(case.operations) > 0
    assert case.mode == "training"


def test_only_looked_up_rows_learn():
    """The suite's towers move the bytes of touched rows: nothing may write the rest of a table."""
    shape = recommenders.TowersShape(users=50, items=40, embedding_size=8, layers=(4,), batch=6)
    module = recommenders.towers(shape.model, CPU)
    rows = torch.arange(6)[:, None]
    recommenders.in_batch_loss(module, rows, rows).backward()
    gradients = [table.weight.grad for side in ("user", "item") for table in module[side]["tables"]]
    assert [gradient.is_sparse for gradient in gradients] == [True, True]
    assert [sorted(set(gradient.coalesce().indices()[0].tolist())) for gradient in gradients] == [[*range(6)]] * 2
