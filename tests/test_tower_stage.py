"""The user tower as a stage, the item tower as a batch job: work, memory and exchanges by hand."""

from __future__ import annotations

import numpy as np
import pytest
from command_line import capacity
from golden import plan_of

from capacity import catalogue, documents, references
from capacity.errors import InputError
from capacity.phases import batch, serving_step
from capacity.phases.context import Context
from capacity.rollout.change import touched
from capacity.spec.rollout import Rollout
from capacity.spec.scenario import Scenario
from capacity.timing import transfer
from capacity.work.operations import Collective, Gather, Gemm, Streaming, total_flop

NAME = "two-tower-retrieval"
SMALL = ("audience.users=1000", "catalogue.items=500")
# model_profiles/two-tower.yaml: a row of 64 values, layers of 128 and 64.
LAYERS = 64 * 128 + 128 * 64
BIASES = 128 + 64


def context(devices: int = 1) -> Context:
    scenario = catalogue.scenario(NAME, (), SMALL)
    model = catalogue.model("two-tower").model_copy()
    user, item = (
        tower.model_copy(update={"tables": (rows,)}) for tower, rows in ((model.user, 1000), (model.item, 500))
    )
    models = {"two-tower": model.model_copy(update={"user": user, "item": item})}
    return Context(scenario=scenario, models=models, tensor_parallel=devices)


def test_a_user_is_one_row_two_products_and_a_norm():
    mine = context()
    work = serving_step.operations(mine.scenario.serving.stage("encode-user"), 8, mine)
    assert [type(op) for op in work] == [Gather, Gemm, Gemm, Streaming]  # a fused engine adds rectifiers for nothing
    products = total_flop(op for op in work if isinstance(op, Gemm))
    assert products == 8 * 2 * LAYERS
    assert total_flop(work) == products + 8 * 64 * 3  # and the norm; a bag of one row adds nothing
    (rows,) = (op for op in work if isinstance(op, Gather))
    assert (rows.rows, rows.width) == (8, 64)


def test_a_stage_keeps_the_users_tower_alone():
    mine = context()
    parts = serving_step.memory_parts(mine.scenario.serving.stage("encode-user"), 8, mine)
    assert parts == {
        "weights": (1000 * 64 + LAYERS + BIASES) * 2,
        "activations": 8 * (64 + 128) * 2,  # a layer's input beside its output
    }


def test_devices_share_the_tables_and_send_the_rows():
    four = context(devices=4)
    stage = four.scenario.serving.stage("encode-user")
    parts = serving_step.memory_parts(stage, 8, four)
    assert parts["weights"] == (1000 * 64 + LAYERS + BIASES) * 2 / 4
    (sent,) = (op for op in serving_step.operations(stage, 8, four) if isinstance(op, Collective))
    assert (sent.kind, sent.devices, sent.message_bytes) == ("alltoall", 4, 8 * 64 * 2 / 4)


def test_the_items_tower_encodes_the_catalogue():
    mine = context()
    (job,) = (job for job in mine.scenario.batch if job.name == "encode-items")
    work = batch.batch_operations(job, mine.models["two-tower"], mine.scenario, 500)
    assert total_flop(op for op in work if isinstance(op, Gemm)) == 500 * 2 * LAYERS
    device = transfer.device(catalogue.hardware("l4"), "fused", [], catalogue.shared())
    run = batch.fewest_devices(job, mine.models["two-tower"], mine.scenario, device)
    assert run.memory_bytes == {"weights": (500 * 64 + LAYERS + BIASES) * 2, "activations": 500 * (64 + 128) * 2}


def test_more_users_never_take_less_time():
    mine = context()
    device = transfer.device(catalogue.hardware("l4"), "fused", [], catalogue.shared())
    stage = mine.scenario.serving.stage("encode-user")
    times = serving_step.time(stage, np.array([1.0, 8.0, 64.0, 4096.0]), device, mine).value
    assert (np.diff(times) >= 0).all()


def test_tables_grow_with_the_users():
    def weights(users: str) -> float:
        return plan_of(NAME, (), (f"audience.users={users}",)).best.pools[0].memory_bytes["weights"]

    assert weights("11000000") - weights("10000000") == 1_000_000 * 64 * 2


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("serving.stages.encode-user.model=bert-base", r"of family 'transformer'; what it is for needs 'two-tower'"),
        ("batch.encode-items.model=dlrm-dcnv2", r"of family 'dlrm'; what it is for needs 'transformer' or 'two-tower'"),
    ],
)
def test_a_model_without_towers_is_refused(setting, said):
    document = catalogue.scenario_document(NAME, (), [setting])
    with pytest.raises(InputError, match=said):
        references.models(documents.validated(document, Scenario), document)


def test_another_tower_needs_another_index():
    old, new = (catalogue.scenario(NAME, (), names) for names in ((), ("serving.stages.encode-user.dtype=fp32",)))
    assert [stage.name for stage in touched(old, new, Rollout()).indexes] == ["retrieve"]


def test_a_wider_tower_can_be_rolled_out(tmp_path):
    wider = tmp_path / "wider.yaml"
    text = documents.find("model_profiles", "two-tower").read_text(encoding="utf-8")
    wider.write_text(text.replace("id: two-tower", "id: wider").replace("[128, 64]", "[256, 128]"))
    said = capacity("rollout", NAME, "encode-user", "--model", str(wider), "--hardware", "l4")
    assert said.code == 0, said.err
    assert "serving.stages.retrieve.width=128" in said.out
    assert "re-encode encode-items" in said.out
    assert "build retrieve" in said.out
