"""FLOP equal what torch's FlopCounterMode counts on the real modules: the same integers, for every shape tried.

The modules live on the meta device: every operator runs on shapes alone, so 70 billion parameters cost nothing. How
they are built so that no kernel hides a product stands in `real_modules`.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capacity import catalogue, documents
from capacity.spec.model import FactorizationModel, FusionScorerModel, IdRankerModel, LstmModel, TransformerModel
from capacity.work import embedding, models, recurrent, retrieval
from capacity.work import operations as ops
from capacity.work import transformer as tf
from capacity.work.huggingface import MODEL_TYPES, transformer

torch = pytest.importorskip("torch", reason="FlopCounterMode needs torch: pip install 'capacity-planner[calibrate]'")
real = pytest.importorskip("real_modules", reason="the real modules need torch and transformers")

MODELS = {name: catalogue.model(name) for name in documents.catalogue("model_profiles")}
TRANSFORMERS = [name for name, model in MODELS.items() if isinstance(model, TransformerModel)]
TRANSFORMERS.remove("minimax-m2.7")  # the dimensions of minimax-m2.5
DECODER_TYPES = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "mixtral", "gemma")
DECODER_TYPES += ("gpt_oss", "minimax_m2", "llama4_text")
BODIES = ("qwen3_vl_text", "qwen3_vl_moe_text")  # the language model around them reads images too
UNSCORED = ("minimax_m2", "llama4_text", *BODIES)  # transformers has no classifier for them
DECODERS = [name for name in TRANSFORMERS if models.architecture(MODELS[name]).layer.causal]
TRAINED = [name for name in TRANSFORMERS if models.parameters(MODELS[name]) < 10e9]
counter = ops.total_counter_flop


def whole(batch: int, length: int, logits: str = "all") -> tf.Pass:
    return tf.Pass(batch=batch, query=length, keys=length, dtype="fp32", phase="prefill", logits=logits)


def as_run(model):
    """Return the model as transformers runs it: its Llama 4 passes every token through every expert."""
    layer = model.layer
    return replace(model, layer=replace(layer, experts_per_token=layer.experts)) if layer.shared_intermediate else model


def batched(op: ops.Operation) -> bool:
    """Tell whether torch runs the operation as a batched product (aten.bmm)."""
    return isinstance(op, ops.Attention | ops.GroupedGemm) or (isinstance(op, ops.Gemm) and op.batch != 1)


def biased(model, op: ops.Operation) -> bool:
    """Tell whether the product adds a bias (aten.addmm) or not (aten.mm)."""
    layer = model.layer
    return {
        **dict.fromkeys(("qkv", "query", "key", "value"), layer.attention_bias),
        "attention output": layer.output_bias,
        **dict.fromkeys(("up", "down"), layer.mlp_bias),
        **dict.fromkeys(("pooler", "classifier"), not layer.causal),
        **dict.fromkeys(("vocabulary", "shared up", "shared down"), False),
        "router": layer.router_bias,
    }[op.label]


def assert_operators_equal(model, operations, counted) -> None:
    """Compare operator by operator, not only the sum."""
    products = [op for op in operations if isinstance(op, ops.Gemm) and not batched(op)]
    assert counted.addmm == counter(op for op in products if biased(model, op))
    assert counted.mm == counter(op for op in products if not biased(model, op))
    assert counted.bmm == counter(op for op in operations if batched(op))
    assert counted.total == counter(operations)


# Every shipped transformer.


@pytest.mark.parametrize(
    ("name", "batch", "length"),
    [(name, 2, 37) for name in TRANSFORMERS] + [(name, 1, 1) for name in TRAINED],  # the others decode one token below
)
def test_forward(name, batch, length):
    model = as_run(models.architecture(MODELS[name]))
    counted = real.counted(lambda: real.run(real.shipped(name), batch, length))
    assert_operators_equal(model, tf.forward(model, whole(batch, length)), counted)


@pytest.mark.parametrize("name", TRAINED)
def test_training_step(name):
    model = as_run(models.architecture(MODELS[name]))
    counted = real.counted(lambda: real.train(real.shipped(name), 2, 9), gradients=True)
    operations = tf.training_step(model, 2, 9, "fp32")
    assert counted.bmm == counter(op for op in operations if batched(op))
    assert counted.total == counter(operations)


@pytest.mark.parametrize("name", DECODERS)
def test_prefill_and_decode_with_a_cache(name):
    """A prompt of 8 tokens, its last position projected; then one token on top of the cache it left."""
    model, outputs = as_run(models.architecture(MODELS[name])), []
    module = real.shipped(name)
    prompt = real.counted(lambda: outputs.append(real.run(module, 3, 8, use_cache=True, logits_to_keep=1)))
    token = real.counted(lambda: real.run(module, 3, 1, past_key_values=outputs[0].past_key_values))
    assert_operators_equal(model, tf.prefill(model, 3, 8, "fp32"), prompt)
    assert_operators_equal(model, tf.decode(model, 3, 8, "fp32"), token)


@pytest.mark.parametrize("name", ["bert-base", "bge-reranker-v2-m3", "gpt2", "qwen3-0.6b"])
def test_encode(name):
    """As an encoder a language model is its body alone; an encoder and a reranker run their own head."""
    model, module = models.architecture(MODELS[name]), real.shipped(name)
    used = module.base_model if model.head == "language-model" else module
    assert_operators_equal(model, tf.encode(model, 3, 8, "fp32"), real.counted(lambda: real.run(used, 3, 8)))


@pytest.mark.parametrize("cached", [3, 7, 8, 20])
@pytest.mark.parametrize(
    ("kind", "key", "window"),
    [
        ("mistral", "sliding_window", None), ("mistral", "sliding_window", 8), ("mistral", "sliding_window", 4),
        ("gpt_oss", "sliding_window", 8), ("gpt_oss", "sliding_window", 4),
        ("llama4_text", "attention_chunk_size", 8), ("llama4_text", "attention_chunk_size", 4),
    ],
)  # fmt: skip
def test_decode_with_a_sliding_window(kind, key, window, cached):
    """The cache of a windowed layer keeps no more keys than the window shows; that of the other layers keeps all."""
    more = {} if kind == "mistral" else {"num_local_experts": 2, "num_experts_per_tok": 2}
    config = tiny(kind, num_hidden_layers=5, **{key: window}, **more)
    model, module, outputs = transformer(config, head="language-model"), real.transformer(config, "language-model"), []
    real.counted(lambda: outputs.append(real.run(module, 2, cached, use_cache=True)))
    counted = real.counted(lambda: real.run(module, 2, 1, past_key_values=outputs[0].past_key_values))
    assert_operators_equal(model, tf.decode(model, 2, cached, "fp32"), counted)


def test_second_chunk_of_a_prompt():
    """Five new tokens on top of eleven cached ones: queries and keys differ in number."""
    config = tiny("llama")
    model, module, outputs = transformer(config, head="language-model"), real.transformer(config, "language-model"), []
    real.counted(lambda: outputs.append(real.run(module, 2, 11, use_cache=True)))
    counted = real.counted(lambda: real.run(module, 2, 5, past_key_values=outputs[0].past_key_values))
    shape = tf.Pass(batch=2, query=5, keys=16, dtype="fp32", phase="prefill", logits="all")
    assert_operators_equal(model, tf.forward(model, shape), counted)


def tiny(kind: str, **more) -> dict:
    return {
        "model_type": kind,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 48,
        "vocab_size": 50,
        **more,
    }


# Random small transformers.


@st.composite
def configs(draw, kind: str) -> dict:
    """Draw a config of a type; a head is as wide as it likes where the type lets it."""
    heads, head_dim = draw(st.sampled_from([1, 2, 3, 4, 6])), 2 * draw(st.integers(1, 6))
    config = {
        "model_type": kind,
        "hidden_size": heads * head_dim,
        "num_hidden_layers": draw(st.integers(1, 3)),
        "num_attention_heads": heads,
        "intermediate_size": draw(st.integers(1, 40)),
        "vocab_size": draw(st.integers(5, 60)),
        "num_labels": draw(st.integers(1, 4)),
    }
    if kind == "gpt2":
        return config | {"n_inner": draw(st.none() | st.integers(1, 40))}
    if kind in DECODER_TYPES:
        config |= {
            "hidden_size": heads * draw(st.integers(1, 10)),
            "head_dim": head_dim,
            "num_key_value_heads": draw(st.sampled_from([n for n in range(1, heads + 1) if heads % n == 0])),
            "tie_word_embeddings": draw(st.booleans()),
        }
    if kind in {"llama", "qwen3", "qwen3_moe", "gemma", "gpt_oss", "llama4_text"}:
        config["attention_bias"] = draw(st.booleans())
    if kind == "llama":
        config["mlp_bias"] = draw(st.booleans())
    if kind in {"mixtral", "qwen3_moe", "gpt_oss", "minimax_m2", "llama4_text"}:
        experts = draw(st.integers(1, 5))
        config["num_experts" if kind == "qwen3_moe" else "num_local_experts"] = experts
        config["num_experts_per_tok"] = draw(st.integers(1, experts))
        config["moe_intermediate_size"] = draw(st.integers(1, 40))
    return config | ({"hidden_dim": config["intermediate_size"]} if kind == "distilbert" else {})


HEADS = [(kind, "none") for kind in MODEL_TYPES if kind not in BODIES]
HEADS += [(kind, "classification") for kind in MODEL_TYPES if kind not in UNSCORED]
HEADS += [(kind, "language-model") for kind in DECODER_TYPES]
HEADS += [(kind, "pooler") for kind in MODEL_TYPES if kind not in {*DECODER_TYPES, *BODIES, "distilbert"}]


@pytest.mark.parametrize(("kind", "head"), HEADS)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(data=st.data(), batch=st.integers(1, 5), length=st.integers(1, 40))
def test_any_transformer(kind, head, data, batch, length):
    config = data.draw(configs(kind))
    model, module = as_run(transformer(config, head=head)), real.transformer(config, head)
    assert model.parameters == real.parameters(module)
    forward = real.counted(lambda: real.run(module, batch, length))
    assert_operators_equal(model, tf.forward(model, whole(batch, length)), forward)
    training = real.counted(lambda: real.train(module, batch, length), gradients=True)
    operations = tf.training_step(model, batch, length, "fp32")
    assert training.bmm == counter(op for op in operations if batched(op))
    assert training.total == counter(operations)


# Recommenders and retrieval.


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize(("batch", "steps"), [(1, 1), (1, 7), (5, 3), (64, 20)])
def test_lstm_recommender(layers, batch, steps):
    """On the meta device torch takes an LSTM apart into one product for all inputs and one for each step's state."""
    shipped = MODELS["lstm-recommender"]
    model = LstmModel.model_validate(shipped.model_dump() | {"layers": layers, "items": 5_000})
    module, items = real.module(model), real.tokens(batch, steps)
    assert real.parameters(module) == models.parameters(model)
    last = real.counted(lambda: module(items))
    assert last.total == last.linear == counter(recurrent.next_item(model, batch, steps, "fp32"))
    training = real.counted(lambda: module(items, "all").sum().backward(), gradients=True)
    assert training.total == training.linear == counter(recurrent.training_step(model, batch, steps, "fp32"))


@pytest.mark.parametrize("pairs", [1, 8, 1000])
def test_id_ranker(pairs):
    model, module = MODELS["bert-id-ranker"], real.shipped("bert-id-ranker")
    assert isinstance(model, IdRankerModel)
    ids = real.tokens(pairs, 1)[:, 0]
    operations = embedding.rank_pairs(model, pairs, "fp32")
    counted = real.counted(lambda: module(ids, ids))
    assert counted.bmm == counter(op for op in operations if batched(op))
    assert counted.total == counter(operations)
    training = real.counted(lambda: module(ids, ids).square().sum().backward(), gradients=True)
    assert training.total == counter(embedding.id_ranker_training_step(model, pairs, "fp32"))


@pytest.mark.parametrize(("requests", "candidates"), [(1, 1), (3, 100), (16, 1000)])
def test_fusion_scorer(requests, candidates):
    model, module = MODELS["fusion-scorer"], real.shipped("fusion-scorer")
    assert isinstance(model, FusionScorerModel)
    query = torch.empty(requests, model.query_size, device="meta")
    items = torch.empty(requests, candidates, model.item_size, device="meta")
    user = torch.empty(requests, model.user_size, device="meta")
    counted = real.counted(lambda: module(query, items, user))
    transform, scores = (op for op in retrieval.fusion_scores(model, requests, candidates, "fp32") if op.counter_flop)
    assert (counted.mm, counted.bmm) == (transform.counter_flop, scores.counter_flop)
    assert counted.total == counter([transform, scores])


@pytest.mark.parametrize(("queries", "vectors", "width"), [(1, 1, 1), (7, 1000, 384), (512, 100_000, 768)])
def test_exact_top_k(queries, vectors, width):
    left, right = torch.empty(queries, width, device="meta"), torch.empty(vectors, width, device="meta")
    top = min(10, vectors)
    counted = real.counted(lambda: torch.topk(left @ right.T, top))
    assert counted.total == counted.mm == counter(retrieval.exact_top_k(queries, vectors, width, top, "fp32"))


def test_alternating_least_squares():
    """One sweep, as many ratings a row: rated factors gathered, Xᵀ·X and Xᵀ·r as batched products, then Cholesky."""
    model = FactorizationModel(
        id="als", name="ALS", family="factorization", source="test", users=60, items=40, factors=16
    )
    module, ratings = real.module(model), 60 * 40 // 4

    def sweep():
        for rows, other in ((model.users, module.items), (model.items, module.users)):
            rated = other(real.tokens(rows, ratings // rows))
            matrix, side = rated.mT @ rated, rated.mT @ torch.empty(rows, ratings // rows, 1, device="meta")
            torch.cholesky_solve(side, torch.linalg.cholesky(matrix))

    counted = real.counted(sweep)
    assert counted.total == counted.bmm == counter(embedding.alternating_least_squares(model, ratings))


def test_factorization_step_has_no_product():
    """Look-ups, an element-wise product and a sum: nothing the counter counts, forward or backward."""
    model, ids = MODELS["ratings-factorization"], real.tokens(32, 1)[:, 0]
    counted = real.counted(lambda: real.shipped("ratings-factorization")(ids, ids).sum().backward(), gradients=True)
    assert counted.total == counter(embedding.factorization_sgd_step(model, 32)) == 0
