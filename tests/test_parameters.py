"""Parameter counts: equal to the real modules, to published numbers, and to counts by hand."""

from __future__ import annotations

import json

import pytest

from capacity import catalogue, documents
from capacity.errors import InputError, UnknownNameError
from capacity.spec.model import TransformerModel
from capacity.work import models
from capacity.work.huggingface import MODEL_TYPES, transformer

PROFILES = tuple(documents.catalogue("model_profiles"))

PUBLISHED = {
    # Encoders: sum of numel over transformers' BertModel, XLMRobertaModel (pooler included) or DistilBertModel.
    "bert-base": 109_482_240,
    "bert-large": 335_141_888,
    "minilm-l6": 22_713_216,  # the card's 22.7 M
    "distilbert-base": 66_362_880,
    "xlm-roberta-large": 559_890_432,
    # Safetensors header of the hub's model page.
    "bge-reranker-v2-m3": 567_755_777,
    # OpenAI said 117 M and 345 M, later corrected to 124 M and 355 M; the head shares the token table.
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    # Safetensors header of the hub's model page, except where the file stores a tied head a second time:
    # there 751,632,384 (0.6B) and 2,031,739,904 (1.7B) are stored, of which 151,936 · hidden are one table twice.
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-8b": 8_190_735_360,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    # By hand. Embedding 50,000·256; four gates of 512·(256 + 512 + two biases); output 50,000·(512 + 1).
    "lstm-recommender": 12_800_000 + 4 * 512 * (256 + 512 + 2) + 25_650_000,
    # Tables 1.1 M · 256; a block has 4 projections 256² + 256, the feed-forward 2·256·1024 + 1024 + 256 and two norms
    # of 2·256; the output unit 256 + 1.
    "bert-id-ranker": 281_600_000 + 4 * (4 * 65_792 + 525_568 + 1_024) + 257,
    "ratings-factorization": 1_100_000 * 128,
    "fusion-scorer": 768 * (768 + 256),
}

SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 32,
    "intermediate_size": 96,
    "vocab_size": 101,
}
OWN = {"mixtral": {"num_local_experts": 4}, "qwen3_moe": {"num_experts": 16}, "distilbert": {"hidden_dim": 96}}
DECODERS = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "mixtral", "gemma")
HEADS = [(kind, "none") for kind in MODEL_TYPES] + [(kind, "classification") for kind in MODEL_TYPES]
HEADS += [(kind, "language-model") for kind in DECODERS]
HEADS += [(kind, "pooler") for kind in ("bert", "camembert", "roberta", "xlm-roberta")]


@pytest.fixture(scope="module")
def real():
    return pytest.importorskip("real_modules", reason="the real modules need torch and transformers")


def small(kind: str) -> dict:
    return {"model_type": kind, **SMALL, **OWN.get(kind, {})}


def test_every_profile_has_a_published_count():
    assert set(PUBLISHED) == set(PROFILES)


@pytest.mark.parametrize("name", PROFILES)
def test_published_count(name):
    assert models.parameters(catalogue.model(name)) == PUBLISHED[name]


@pytest.mark.parametrize("name", PROFILES)
def test_count_equals_the_real_module(real, name):
    assert models.parameters(catalogue.model(name)) == real.parameters(real.shipped(name))


@pytest.mark.parametrize("name", PROFILES)
def test_profile_form(name):
    path = documents.find("model_profiles", name)
    assert path.read_text().startswith("# yaml-language-server: $schema=../docs/reference/schemas/model.json\n")
    model = catalogue.model(name)
    assert model.id == path.stem
    assert model.source.startswith(("Hugging Face ", "Own dimensions"))


@pytest.mark.parametrize(
    ("name", "active"),
    [
        # Of 8 experts of 3·4096·14,336 in each of 32 blocks a token passes 2: 46,702,792,704 − 32·6·176,160,768.
        ("mixtral-8x7b", 12_879_925_248),
        # Of 128 experts of 3·2048·768 in each of 48 blocks a token passes 8; the paper says 3 B.
        ("qwen3-30b-a3b", 3_353_032_704),
        ("qwen3-8b", 8_190_735_360),
    ],
)
def test_active_parameters(name, active):
    assert models.architecture(catalogue.model(name)).active_parameters == active


@pytest.mark.parametrize(
    ("name", "width"), [("bert-base", 768), ("lstm-recommender", 512), ("bert-id-ranker", 256), ("fusion-scorer", 768)]
)
def test_vector_width(name, width):
    assert models.vector_width(catalogue.model(name)) == width


@pytest.mark.parametrize(("kind", "head"), HEADS)
def test_missing_fields_take_the_defaults_of_transformers(real, kind, head):
    config = small(kind)
    assert transformer(config, head=head).parameters == real.parameters(real.transformer(config, head))


@pytest.mark.parametrize(
    ("kind", "fields", "head"),
    [
        ("llama", {"attention_bias": True, "mlp_bias": True}, "language-model"),
        ("llama", {"tie_word_embeddings": True, "num_key_value_heads": 4, "head_dim": 6}, "language-model"),
        ("qwen3", {"attention_bias": True, "head_dim": 8, "num_key_value_heads": 2}, "language-model"),
        ("qwen3_moe", {"attention_bias": True, "head_dim": 8, "moe_intermediate_size": 40}, "language-model"),
        ("gemma", {"attention_bias": True, "tie_word_embeddings": False}, "language-model"),
        ("mistral", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4}, "language-model"),
        ("gpt2", {"n_inner": 50, "n_positions": 33, "tie_word_embeddings": False}, "language-model"),
        ("bert", {"max_position_embeddings": 9, "type_vocab_size": 5, "num_labels": 7}, "classification"),
        ("xlm-roberta", {"id2label": {"0": "a"}}, "classification"),
        ("qwen3", {"head_dim": 8, "num_labels": 1}, "classification"),
    ],
)
def test_optional_fields(real, kind, fields, head):
    config = small(kind) | fields
    assert transformer(config, head=head).parameters == real.parameters(real.transformer(config, head))


@pytest.mark.parametrize(
    ("architecture", "kind", "head"),
    [
        ("BertModel", "bert", "pooler"),
        ("XLMRobertaModel", "xlm-roberta", "pooler"),
        ("BertForMaskedLM", "bert", "none"),
        ("XLMRobertaForSequenceClassification", "xlm-roberta", "classification"),
        ("GPT2LMHeadModel", "gpt2", "language-model"),
        ("Qwen3ForCausalLM", "qwen3", "language-model"),
        ("Qwen3Model", "qwen3", "none"),
        (None, "bert", "none"),
    ],
)
def test_head_is_read_from_architectures(architecture, kind, head):
    named = {"architectures": [architecture]} if architecture else {}
    assert transformer(small(kind) | named).head == head


def test_config_json_of_the_hub_is_a_model(tmp_path):
    folder = tmp_path / "My-Reranker"
    folder.mkdir()
    fields = {"architectures": ["XLMRobertaForSequenceClassification"], "id2label": {"0": "x"}, "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(small("xlm-roberta") | fields))
    model = catalogue.model(str(folder / "config.json"))
    assert isinstance(model, TransformerModel)
    architecture = models.architecture(model)
    assert (model.id, architecture.head, architecture.labels) == ("my-reranker", "classification", 1)


@pytest.mark.parametrize(
    ("fields", "head", "said"),
    [
        ({"model_type": "llama"}, "pooler", "head 'pooler' of model_type 'llama'"),
        ({"model_type": "bert"}, "language-model", "head 'language-model' of model_type 'bert'"),
        ({"model_type": "bert", "hidden_size": 65}, "none", "65 is not a multiple of num_attention_heads 32"),
        ({"model_type": "bert", "hidden_size": "64"}, "none", "must be a positive whole number, got '64'"),
        ({"model_type": "llama", "vocab_size": None}, "none", "must be a positive whole number, got None"),
        ({"model_type": "llama", "num_hidden_layers": True}, "none", "'num_hidden_layers' must be a positive whole"),
        ({"model_type": "qwen3_moe", "num_experts": 4, "mlp_only_layers": [0]}, "none", "dense blocks between"),
        ({"model_type": "qwen3_moe", "num_experts": 4, "decoder_sparse_step": 2}, "none", "dense blocks between"),
    ],
)
def test_what_is_not_known_is_refused(fields, head, said):
    with pytest.raises(InputError, match=said):
        transformer(SMALL | fields, head=head)


def test_an_unknown_type_names_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean qwen3"):
        transformer({"model_type": "qwen33"})
