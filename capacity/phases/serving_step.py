"""One stage of the online pipeline for a batch of requests: its operations, its time, its memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from capacity.errors import CapacityError
from capacity.phases import memory, nearest, sharing
from capacity.phases.context import Context
from capacity.spec import names
from capacity.spec.model import (
    Bert4RecModel,
    DlrmModel,
    FusionScorerModel,
    IdRankerModel,
    LstmModel,
    TransformerModel,
    TwoTowerModel,
)
from capacity.spec.names import Precision
from capacity.spec.stages import (
    EncodeStage,
    FetchStage,
    FuseStage,
    GenerateStage,
    HostStage,
    NextItemStage,
    RankStage,
    RetrieveStage,
    ScoreStage,
    Stage,
    TowerStage,
)
from capacity.timing.band import Estimate, total
from capacity.timing.device import Device
from capacity.timing.form import MissingFactError
from capacity.work import (
    bert4rec,
    embedding,
    interaction,
    recurrent,
    retrieval,
    sequential,
    tiers,
    transformer,
    two_tower,
)
from capacity.work.models import (
    LookUpModel,
    architecture,
    item_transformer,
    parameters,
    reading,
    rows_read,
    table_rows,
    two_towers,
)
from capacity.work.operations import Amount, Attention, Gather, Gemm, Operation, repeated
from capacity.work.padding import Lengths, Padded, padded
from capacity.work.placement import row_bytes
from capacity.work.two_tower import TwoTower

LookUpStage: TypeAlias = RankStage | ScoreStage


def operations(stage: Stage, requests: Amount, context: Context) -> tuple[Operation, ...]:
    """Return what `stage` executes for a batch of `requests` requests; empty for host work."""
    return _WORK[type(stage)](stage, requests, context)


def time(stage: Stage, requests: Amount, device: Device, context: Context) -> Estimate:
    """Return the time of one batch of `requests` requests in `stage` [s].

    Requests answered from a cache skip the stage: a batch holds `requests · (1 − hit rate)` of them on average.
    Host work goes on beside the device for every request at once, so it takes as long as one request's.
    """
    if isinstance(stage, HostStage):
        return Estimate(stage.time + 0.0 * requests, {f"host time of {stage.name}": 0.1}, "assumed")
    working = requests * (1 - context.hit_rate(stage))
    if isinstance(stage, GenerateStage):
        prefill, decode = generation(stage, working, context)
        return total([sharing.step(device, prefill, context), sharing.step(device, decode, context)])
    if isinstance(stage, RetrieveStage):
        return nearest.time(stage, working, device, context)
    step = sharing.step(device, operations(stage, working, context), context)
    if isinstance(stage, LookUpStage):
        return total([step, _awaited(stage, working, device, context)])
    return step


class Rows(NamedTuple):
    """The rows that each device of a replica answers for, a row's bytes as stored, and rows that a batch reads."""

    number: float
    width: int
    row_bytes: float
    read: Amount

    @property
    def size_bytes(self) -> float:
        """All rows [byte]."""
        return self.number * self.row_bytes


def rows(stage: LookUpStage, requests: Amount, context: Context) -> Rows:
    """Return the rows of one device, and how many of them a batch of `requests` requests reads."""
    degree, stored = context.tensor_parallel, stage.tables.dtype or stage.dtype
    if isinstance(stage, RankStage):
        ranker: IdRankerModel = _model(context, stage.model, IdRankerModel)
        width, number, read = ranker.embedding_size, ranker.users + ranker.items, 2 * requests * stage.candidates
    else:
        model = _scorer(stage, context)
        width, number = model.embedding_size, table_rows(model)
        read = rows_read(model, requests, context.scenario.audience.history, stage.candidates)
    return Rows(number / degree, width, row_bytes(width, stored), read / degree)


def _awaited(stage: LookUpStage, requests: Amount, device: Device, context: Context) -> Estimate:
    """Return how long a batch waits for rows that its device does not keep, beyond its own kernel's look-ups [s].

    That kernel gathers all rows, those of slower tiers as they come, so the look-ups take as long as the slowest of it,
    the host's link, over which the rows of drives come too, and the drives (`tiers.look_up`).
    """
    mine, tables, hardware = rows(stage, requests, context), stage.tables, device.hardware
    room, host_room, drive_room = tables.rooms(mine.size_bytes)
    if room == mine.size_bytes:
        return Estimate(0.0 * requests)
    if hardware.host_bandwidth is None:
        raise MissingFactError(f"{hardware.id} has no host_bandwidth: stage {stage.name} reads rows over it")
    link = tiers.host_tier(hardware, host_room)
    link = replace(link, bytes_per_s=link.bytes_per_s / context.scenario.serving.pool(stage.pool).slices)
    ladder = [tiers.device_tier(hardware, room), *([link] if host_room else [])]
    ladder += [tiers.drive_tier(drive_room, tables.drives)] if drive_room else []
    found = tiers.look_up(ladder, math.ceil(mine.number), mine.row_bytes, tables.exponent, 1, tables.policy)
    drive_s = float(found.tier_s[-1]) if drive_room else 0.0
    slowest_s = mine.read * max(float(found.shares[1:].sum()) * link.row_s(mine.row_bytes), drive_s)
    gathers = (op for op in operations(stage, requests, context) if isinstance(op, Gather))
    gather_s = sum((device.time(op).value for op in gathers), start=0.0) / context.tensor_parallel
    return Estimate(np.maximum(slowest_s - gather_s, 0.0), {"look-ups in slower memory": 0.4}, "assumed")


def _as_stored(work: tuple[Operation, ...], stage: LookUpStage, context: Context) -> tuple[Operation, ...]:
    """Return look-ups that read rows as they are stored, and still write what the stage computes in."""
    mine, stored = rows(stage, 1, context), stage.tables.dtype or stage.dtype
    width = mine.row_bytes / memory.value_bytes(stored)
    wider = mine.row_bytes / (mine.width * memory.value_bytes(stage.dtype))
    return tuple(
        replace(op, dtype=stored, width=width, pooled=op.pooled * wider) if isinstance(op, Gather) else op
        for op in work
    )


def lacking_bytes(stage: Stage, context: Context) -> float:
    """Return how much of a device's rows no tier holds; 0 where all have a place [byte]."""
    if not isinstance(stage, LookUpStage):
        return 0.0
    size = rows(stage, 1, context).size_bytes
    return size - stage.tables.held_bytes(size)


def memory_parts(stage: Stage, requests: int, context: Context) -> Mapping[str, Amount]:
    """Return what `stage` keeps in one device's memory while it serves a batch [byte], by component.

    Requests answered from a cache hold none of it. Weights, tables and catalogue vectors are split over the
    `tensor_parallel` devices of a replica.
    """
    degree = context.tensor_parallel
    requests = math.ceil(requests * (1 - context.hit_rate(stage)))
    match stage:
        case EncodeStage():
            model = _transformer(context, stage.model)
            tokens = requests * stage.sequences * lengths(stage, requests, context).longest
            return memory.inference(architecture(model), tokens, stage.dtype, degree)
        case GenerateStage():
            model = _transformer(context, stage.model)
            tokens = context.scenario.tokens(stage.prompt_tokens) + stage.output_tokens
            parts = memory.inference(architecture(model), requests * tokens, stage.dtype, degree)
            return parts | {"KV cache": memory.kv_cache(architecture(model), requests, tokens, stage.dtype, degree)}
        case RetrieveStage():
            return memory.vectors(nearest.index(stage, context), requests * stage.queries)
        case RankStage() | NextItemStage() | FuseStage() | ScoreStage() | TowerStage():
            return _model_memory(stage, requests, context)
        case FetchStage():
            return {"feature table": memory.table(stage.table_rows, stage.width, stage.dtype) / degree}
        case _:
            return {}


def _model_memory(
    stage: LookUpStage | NextItemStage | FuseStage | TowerStage, requests: int, context: Context
) -> dict[str, Amount]:
    """Return what a model that reads no texts keeps on one device, activations where they matter [byte]."""
    if isinstance(stage, TowerStage):
        return memory.tower(_user_tower(stage, context).user, requests, stage.dtype, context.tensor_parallel)
    more = _activations(stage, requests, context) if isinstance(stage, ScoreStage) else {}
    return _weights(stage, context) | more


def _weights(stage: LookUpStage | NextItemStage | FuseStage, context: Context) -> dict[str, Amount]:
    """Return a device's share of the weights, and of the tables the rows that it keeps [byte]."""
    model, degree = context.models[stage.model], context.tensor_parallel
    if not isinstance(stage, LookUpStage):
        return memory.tables(model, stage.dtype, degree)
    mine = rows(stage, 1, context)
    beside = parameters(model) / degree - mine.number * mine.width
    return {"weights": beside * memory.value_bytes(stage.dtype) + stage.tables.rooms(mine.size_bytes)[0]}


def generation(
    stage: GenerateStage, requests: Amount, context: Context
) -> tuple[tuple[Operation, ...], tuple[Operation, ...]]:
    """Return the operations of reading the prompts, and of writing every output token at the mean context length."""
    prompt, fusion = context.scenario.tokens(stage.prompt_tokens), context.scenario.engine
    model = reading(_transformer(context, stage.model), prompt + stage.output_tokens)
    precision = names.dtype(stage.dtype)
    prefill = transformer.prefill(model, requests, prompt, precision.compute, fusion)
    step = transformer.decode(model, requests, prompt + stage.output_tokens / 2, precision.compute, fusion)
    exchange = sharing.exchange(model.layer, model.layers, requests * prompt, precision.compute, context)
    step_exchange = sharing.exchange(model.layer, model.layers, requests, precision.compute, context)
    prefill, step = _stored(prefill, precision), _stored(step, precision)
    return prefill + exchange, repeated(step + step_exchange, stage.output_tokens)


def _stored(operations: tuple[Operation, ...], precision: Precision) -> tuple[Operation, ...]:
    """Return products that read their weights as they are stored, where that is narrower than they multiply."""
    if precision.weight == precision.compute:
        return operations
    return tuple(replace(op, weight_dtype=precision.weight) if isinstance(op, Gemm) else op for op in operations)


def lengths(stage: EncodeStage, requests: Amount, context: Context) -> Padded:
    """Return the tokens that each text takes in a batch of `requests` requests, fill included."""
    model = _transformer(context, stage.model)
    mean = context.scenario.tokens(stage.tokens)
    texts = Lengths(mean=mean, cv=stage.tokens_cv, longest=reading(model, mean).positions or math.inf)
    return padded(texts, 1.0 if stage.batching == "pack" else requests * stage.sequences, stage.buckets)


def _encode(stage: EncodeStage, requests: Amount, context: Context) -> tuple[Operation, ...]:
    """Attention grows with the square of a length: the root mean square stands for lengths that vary."""
    texts, length = requests * stage.sequences, lengths(stage, requests, context)
    model, square = architecture(_transformer(context, stage.model)), length.root_mean_square
    work = transformer.encode(model, texts, length.mean, stage.dtype, context.scenario.engine)
    varied = tuple(replace(op, query=square, keys=square) if isinstance(op, Attention) else op for op in work)
    return varied + sharing.exchange(model.layer, model.layers, texts * length.mean, stage.dtype, context)


def _generate(stage: GenerateStage, requests: Amount, context: Context) -> tuple[Operation, ...]:
    prefill, decode = generation(stage, requests, context)
    return prefill + decode


def _score(stage: ScoreStage, requests: Amount, context: Context) -> tuple[Operation, ...]:
    """Rows of one bag are summed where they lie; those of a sequence are sent one by one."""
    model, events, engine = _scorer(stage, context), context.scenario.audience.history, context.scenario.engine
    if isinstance(model, DlrmModel):
        pairs = requests * stage.candidates
        work, sent = interaction.score_pairs(model, pairs, stage.dtype, engine), pairs * len(model.tables)
    else:
        work = sequential.score_candidates(model, requests, events, stage.candidates, stage.dtype, engine)
        sent = rows_read(model, requests, events, stage.candidates)
    return _as_stored(work, stage, context) + sharing.looked_up(sent, model.embedding_size, stage.dtype, context)


def _activations(stage: ScoreStage, requests: Amount, context: Context) -> dict[str, Amount]:
    """Return what scoring keeps while it lasts, each device for its share of the batch [byte]."""
    share, events = requests / context.tensor_parallel, context.scenario.audience.history
    live = memory.look_up_activations(_scorer(stage, context), share, events, stage.candidates, stage.dtype)
    return {"activations": live}


def _scorer(stage: ScoreStage, context: Context) -> LookUpModel:
    model = context.models[stage.model]
    if not isinstance(model, LookUpModel):
        wanted = " or ".join(repr(family) for family in stage.families)
        raise CapacityError(f"model {stage.model} is of family {model.family!r}; this stage needs {wanted}")
    return model


def _rank(stage: RankStage, requests: Amount, context: Context) -> tuple[Operation, ...]:
    model = _model(context, stage.model, IdRankerModel)
    pairs = requests * stage.candidates
    work = embedding.rank_pairs(model, pairs, stage.dtype, context.scenario.engine)
    return _as_stored(work, stage, context) + sharing.looked_up(2 * pairs, model.embedding_size, stage.dtype, context)


def _next_item(stage: NextItemStage, requests: Amount, context: Context) -> tuple[Operation, ...]:
    history, engine = context.scenario.audience.history, context.scenario.engine
    if isinstance(items := context.models[stage.model], Bert4RecModel):
        return bert4rec.next_item(item_transformer(items), requests, history, stage.dtype, engine)
    model = _model(context, stage.model, LstmModel)
    return recurrent.next_item(model, requests, history, stage.dtype)


def _user_tower(stage: TowerStage, context: Context) -> TwoTower:
    return two_towers(_model(context, stage.model, TwoTowerModel))


def _tower(stage: TowerStage, requests: Amount, context: Context) -> tuple[Operation, ...]:
    """One user a request; rows of one bag are summed where they lie."""
    model, engine = _user_tower(stage, context), context.scenario.engine
    work = two_tower.encode(model.user, requests, stage.dtype, engine, normed=model.normed)
    sent = requests * len(model.user.tables)
    return work + sharing.looked_up(sent, model.user.embedding_size, stage.dtype, context)


def _fuse(stage: FuseStage, requests: Amount, context: Context) -> tuple[Operation, ...]:
    model = _model(context, stage.model, FusionScorerModel)
    return retrieval.fusion_scores(model, requests, stage.candidates, stage.dtype)


def _fetch(stage: FetchStage, requests: Amount, _: Context) -> tuple[Operation, ...]:
    return (Gather(rows=requests * stage.rows, width=stage.width, dtype=stage.dtype, label=stage.name),)


def _transformer(context: Context, name: str) -> TransformerModel:
    model: TransformerModel = _model(context, name, TransformerModel)
    return model


def _model(context: Context, name: str, kind: type[Any]) -> Any:  # noqa: ANN401  (the caller names the type)
    model = context.models[name]
    if not isinstance(model, kind):
        wanted = kind.model_fields["family"].annotation
        raise CapacityError(f"model {name} is of family {model.family!r}; this stage needs {wanted.__args__[0]!r}")
    return model


_WORK: dict[type, Callable[[Any, Amount, Context], tuple[Operation, ...]]] = {
    EncodeStage: _encode, GenerateStage: _generate, RetrieveStage: nearest.operations, RankStage: _rank,
    ScoreStage: _score, NextItemStage: _next_item, TowerStage: _tower, FuseStage: _fuse, FetchStage: _fetch,
    HostStage: lambda *_: (),
}  # fmt: skip
