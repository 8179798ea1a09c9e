"""Levers of the online pipeline: number formats, smaller models and inputs, batching, caches, vectors, fleets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from capacity.levers.lever import Changes, InapplicableError, Lever, Models, of_stages, stages
from capacity.phases.context import Context
from capacity.phases.serving_step import rows
from capacity.spec.scenario import Scenario
from capacity.spec.stages import EncodeStage, GenerateStage, RankStage, RetrieveStage, ScoreStage

HALF = ("fp32", "tf32", "bf16", "fp16")
STUDENTS = {
    "bert-base": "distilbert-base", "gpt2-medium": "gpt2", "llama-3.1-8b": "llama-3.2-3b",
    "llama-3.1-70b": "llama-3.1-8b", "llama-3.1-405b": "llama-3.1-70b", "llama-2-13b": "llama-2-7b",
    "qwen3-32b": "qwen3-8b", "qwen3-14b": "qwen3-8b", "qwen3-8b": "qwen3-1.7b", "qwen3-1.7b": "qwen3-0.6b",
}  # fmt: skip
"""Published smaller models of the same family; vectors of an encoder stay as wide."""
CACHED_SHARE = KEPT_SHARE = 0.1
LOWER_RECALL = 0.9
SPEC_TOKENS, SPEC_ACCEPTANCE = 3, 0.7
LIST_ITEMS = 1000
"""Vectors of an inverted list that is not too long to scan (faiss guidelines: lists between 4 and 16 times √items)."""


def _products(dtype: str) -> Callable[[Scenario, Models], Changes]:
    """Return the change of what encoders, generators and scorers multiply in."""

    def change(scenario: Scenario, _: Models) -> Changes:
        found = (
            (stage.name, {"dtype": dtype})
            for stage in scenario.serving.stages
            if isinstance(stage, EncodeStage | GenerateStage) and stage.dtype in HALF
        )
        return of_stages(found, "no encoder or generator runs in 16 bits or more")

    return change


def _weight_int4(scenario: Scenario, _: Models) -> Changes:
    found = ((stage.name, {"dtype": "int4"}) for stage in stages(scenario, GenerateStage) if stage.dtype in HALF)
    return of_stages(found, "no generator runs in 16 bits or more")


def _kv_fp8(scenario: Scenario, _: Models) -> Changes:
    found = (
        (stage.name, {"kv_dtype": "fp8"}) for stage in stages(scenario, GenerateStage)
        if stage.kv_dtype != "fp8" and stage.dtype in HALF
    )  # fmt: skip
    return of_stages(found, "no generator keeps keys and values in 16 bits")


def _tables_int8(scenario: Scenario, _: Models) -> Changes:
    found = (
        (stage.name, {"tables": {"dtype": "int8"}}) for stage in scenario.serving.stages
        if isinstance(stage, RankStage | ScoreStage) and (stage.tables.dtype or stage.dtype) in HALF
    )  # fmt: skip
    return of_stages(found, "no stage looks rows up in 16 bits or more")


def _tiered(scenario: Scenario, models: Models) -> Changes:
    found = []
    for stage in scenario.serving.stages:
        if isinstance(stage, RankStage | ScoreStage) and stage.tables.device_memory is None:
            size = rows(stage, 1, Context(scenario=scenario, models=models)).size_bytes
            found.append((stage.name, {"tables": {"device_memory": KEPT_SHARE * size, "host_memory": size}}))
    return of_stages(found, "no stage looks up rows of embedding tables that all lie on its device")


def _student(scenario: Scenario, _: Models) -> Changes:
    used = {
        stage.model for stage in scenario.serving.stages
        if isinstance(stage, EncodeStage | GenerateStage) and stage.model in STUDENTS
    }  # fmt: skip
    if not used:
        raise InapplicableError(f"no stage runs a model with a known smaller one: {', '.join(STUDENTS)}")
    changes: Changes = {}
    for name, entries in (("training", scenario.training), ("batch", scenario.batch)):
        mine = {item.name: {"model": STUDENTS[item.model]} for item in entries if item.model in used}
        changes |= {name: mine} if mine else {}
    for job in scenario.training:
        if job.model in used:
            changes["training"][job.name]["teacher"] = job.model
    found = (
        (stage.name, {"model": STUDENTS[stage.model]})
        for stage in scenario.serving.stages
        if isinstance(stage, EncodeStage | GenerateStage) and stage.model in used
    )
    return changes | of_stages(found, "")


def _pruned(scenario: Scenario, _: Models) -> Changes:
    models = {
        stage.model for stage in scenario.serving.stages
        if isinstance(stage, EncodeStage | GenerateStage) and stage.model not in scenario.pruning
    }  # fmt: skip
    if not models:
        raise InapplicableError("no encoder or generator is left to prune")
    return {"pruning": dict.fromkeys(sorted(models), 0.5)}


def _sparse(_: Scenario, __: Models) -> Changes:
    raise InapplicableError(
        "2:4 sparse kernels were not measured on any device; the datasheets' factor of two is a peak"
    )


def _packed(scenario: Scenario, _: Models) -> Changes:
    found = (
        (stage.name, {"batching": "pack"}) for stage in stages(scenario, EncodeStage)
        if stage.batching == "pad" and stage.tokens_cv > 0
    )  # fmt: skip
    return of_stages(found, "no encoder fills up texts of different lengths (tokens_cv is 0)")


def _batched(scenario: Scenario, _: Models) -> Changes:
    if scenario.serving.max_batch >= 32:
        raise InapplicableError(f"batches of up to {scenario.serving.max_batch} are formed already")
    return {"serving": {"max_batch": 32}}


def _compiled(scenario: Scenario, _: Models) -> Changes:
    if scenario.engine != "eager":
        raise InapplicableError(f"the engine is {scenario.engine} already")
    return {"engine": "fused"}


def _cached(scenario: Scenario, _: Models) -> Changes:
    entries = max(1, int(scenario.audience.users * CACHED_SHARE))
    found = (
        (stage.name, {"cache": {"entries": entries, "keys": "users"}}) for stage in stages(scenario, EncodeStage)
        if stage.cache is None and not stage.cache_hit_rate and stage.sequences == 1
    )  # fmt: skip
    return of_stages(found, "no encoder of one text a request is without a cache")


def _prefixes(scenario: Scenario, _: Models) -> Changes:
    found = [stage.name for stage in stages(scenario, GenerateStage) if stage.prefix_tokens == 0]
    told = f"say prefix_tokens of {', '.join(found)}: how much of the prompt requests share" if found else ""
    raise InapplicableError(told or "no generator is without a shared prefix")


def _speculative(scenario: Scenario, _: Models) -> Changes:
    wanted = {"tokens": SPEC_TOKENS, "acceptance": SPEC_ACCEPTANCE}
    found = (
        (stage.name, {"speculation": wanted}) for stage in stages(scenario, GenerateStage)
        if stage.speculation is None and stage.beams == 1
    )  # fmt: skip
    return of_stages(found, "no generator writes one sequence without speculation")


def _fewer(scenario: Scenario, _: Models) -> Changes:
    found = [
        (stage.name, {"sequences": stage.sequences // 2})
        for stage in stages(scenario, EncodeStage)
        if stage.sequences > 1
    ]
    scored = (stage for stage in scenario.serving.stages if isinstance(stage, RankStage | ScoreStage))
    found += [(stage.name, {"candidates": stage.candidates // 2}) for stage in scored if stage.candidates > 1]
    return of_stages(found, "no stage scores more than one candidate")


def _shorter(scenario: Scenario, _: Models) -> Changes:
    if scenario.catalogue.item_tokens < 32:
        raise InapplicableError(f"items have {scenario.catalogue.item_tokens} tokens already")
    return {"catalogue": {"item_tokens": scenario.catalogue.item_tokens // 2}}


def _vectors_int8(scenario: Scenario, _: Models) -> Changes:
    found = (
        (stage.name, {"dtype": "int8"}) for stage in stages(scenario, RetrieveStage)
        if stage.dtype in HALF and stage.index != "pq"
    )  # fmt: skip
    return of_stages(found, "no index keeps vectors of 16 bits or more")


def _narrower(scenario: Scenario, _: Models) -> Changes:
    found = [
        (stage.name, {"width": stage.width // 2}) for stage in stages(scenario, RetrieveStage) if stage.width >= 64
    ]
    changes = of_stages(found, "no index keeps vectors of 64 values or more")
    widths = {stage.width for stage in stages(scenario, RetrieveStage)}
    jobs = {job.name: {"width": job.width // 2} for job in scenario.batch if job.width in widths and job.width}
    return changes | ({"batch": jobs} if jobs else {})


def _lower_recall(scenario: Scenario, _: Models) -> Changes:
    found = (
        (stage.name, {"recall": LOWER_RECALL}) for stage in stages(scenario, RetrieveStage)
        if stage.recall is not None and stage.recall > LOWER_RECALL
    )  # fmt: skip
    return of_stages(found, f"no search of the catalogue is asked for a recall above {LOWER_RECALL:g}")


def _index(kind: str) -> Callable[[Scenario, Models], Changes]:
    """Return the change of exact searches to an approximate index."""

    def change(scenario: Scenario, _: Models) -> Changes:
        lists = max(16, scenario.catalogue.items // LIST_ITEMS)
        found = []
        for stage in stages(scenario, RetrieveStage):
            if stage.index == kind or (kind != "pq" and stage.index != "exact"):
                continue
            parts = {"lists": lists, "probes": max(1, lists // 64)}
            more: dict[str, Any] = {"ivf": parts, "pq": {**parts, "code_bytes": max(1, stage.width // 8)}}.get(kind, {})
            more |= {} if stage.recall is None else {"recall": None}
            found.append((stage.name, {"index": kind, **more}))
        return of_stages(found, f"no search of the catalogue could still become {kind}")

    return change


SERVING = (
    Lever(id="weight-fp8", title="products in fp8", group="numbers", change=_products("fp8"), note="weight-fp8"),
    Lever(
        id="activation-int8",
        title="products in int8",
        group="numbers",
        change=_products("int8"),
        note="activation-int8",
    ),
    Lever(id="weight-int4", title="weights in four bits", group="numbers", change=_weight_int4, note="weight-int4"),
    Lever(id="kv-fp8", title="keys and values in fp8", group="numbers", change=_kv_fp8, note="kv-fp8"),
    Lever(id="embedding-int8", title="tables in int8", group="numbers", change=_tables_int8, note="embedding-int8"),
    Lever(
        id="table-tiering",
        title="rarely read rows in the host's memory",
        group="serving",
        change=_tiered,
        exact=True,
        note="table-tiering",
        assumes="a tenth of the rows stays on the device, popularity by Zipf's law with exponent 0.9, and the host has "
        "room for all of them",
    ),
    Lever(
        id="distillation",
        title="a smaller published model, taught by today's",
        group="model",
        change=_student,
        note="distillation",
    ),
    Lever(
        id="structured-pruning",
        title="half of the feed-forward width pruned",
        group="model",
        change=_pruned,
        note="width-pruning",
        assumes="half of the inner values go",
    ),
    Lever(id="sparsity-2-4", title="2:4 sparse weights", group="model", change=_sparse, note="sparsity-2-4"),
    Lever(
        id="fewer-candidates", title="half as many candidates", group="model", change=_fewer, note="fewer-candidates"
    ),
    Lever(id="truncation", title="texts cut to half", group="model", change=_shorter, note="truncation"),
    Lever(id="packing", title="batches without padding", group="serving", change=_packed, exact=True, note="packing"),
    Lever(
        id="dynamic-batching",
        title="batches of up to 32",
        group="serving",
        change=_batched,
        exact=True,
        note="dynamic-batching",
    ),
    Lever(id="compiled", title="a compiled engine", group="serving", change=_compiled, exact=True),
    Lever(
        id="embedding-cache",
        title="a cache of encoded users",
        group="serving",
        change=_cached,
        note="embedding-cache",
        assumes="room for a tenth of the users, popularity by Zipf's law with exponent 0.9, entries never stale",
    ),
    Lever(
        id="prefix-cache",
        title="shared prefixes cached",
        group="serving",
        change=_prefixes,
        exact=True,
        note="prefix-cache",
    ),
    Lever(
        id="speculative-decoding",
        title="speculative decoding",
        group="serving",
        change=_speculative,
        exact=True,
        note="speculative-decoding",
        assumes="3 tokens proposed a step, each kept with a chance of 0.7",
    ),
    Lever(id="vector-int8", title="vectors in int8", group="vectors", change=_vectors_int8, note="vector-int8"),
    Lever(id="matryoshka", title="vectors half as wide", group="vectors", change=_narrower, note="matryoshka"),
    Lever(
        id="ivf",
        title="search in inverted lists",
        group="vectors",
        change=_index("ivf"),
        note="ivf-probes",
        assumes="lists of 1,000 vectors, one in 64 searched: measure the recall",
    ),
    Lever(
        id="lower-recall",
        title="a tenth of the nearest may be missed",
        group="vectors",
        change=_lower_recall,
        note="ivf-probes",
        assumes="a recall of 0.9, by the points that the stage names",
    ),
    Lever(
        id="hnsw",
        title="search in a graph",
        group="vectors",
        change=_index("hnsw"),
        note="hnsw-ef",
        assumes="32 links, 64 candidates kept: measure the recall",
    ),
    Lever(
        id="product-quantization",
        title="compressed vectors in inverted lists",
        group="vectors",
        change=_index("pq"),
        note="product-quantization",
        assumes="a byte for each 8 values, one list in 64 searched: measure the recall",
    ),
)
