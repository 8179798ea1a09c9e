"""Parameter counts: equal to the real modules, to published numbers, and to counts by hand."""

from __future__ import annotations

import json

import pytest

from capacity import catalogue, documents
from capacity.errors import InputError, UnknownNameError
from capacity.phases import memory
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
    "qwen3-14b": 14_768_307_200,
    "qwen3-235b-a22b": 235_093_634_560,
    "qwen3-coder-480b-a35b": 480_154_875_392,
    "qwen2.5-7b": 7_615_616_512,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-2-70b": 68_976_648_192,
    "codellama-34b": 33_743_970_304,
    "llama-3.1-405b": 405_853_388_800,
    "mistral-nemo": 12_247_782_400,
    "mixtral-8x22b": 140_620_634_112,
    "yi-34b": 34_388_917_248,
    # arXiv:2508.10925, table 1: 20.91 and 116.83 billion.
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
    # Sum of numel over transformers' Llama4ForCausalLM: the vision tower of the published 109 billion is not in it.
    "llama-4-scout": 107_769_861_120,
    # The same over MiniMaxM2ForCausalLM, the published 230 billion.
    "minimax-m2.5": 228_689_748_992,
    "minimax-m2.7": 228_689_748_992,
    # By hand. Embedding 50,000·256; four gates of 512·(256 + 512 + two biases); output 50,000·(512 + 1).
    "lstm-recommender": 12_800_000 + 4 * 512 * (256 + 512 + 2) + 25_650_000,
    # Tables 1.1 M · 256; a block has 4 projections 256² + 256, the feed-forward 2·256·1024 + 1024 + 256 and two norms
    # of 2·256; the output unit 256 + 1.
    "bert-id-ranker": 281_600_000 + 4 * (4 * 65_792 + 525_568 + 1_024) + 257,
    "ratings-factorization": 1_100_000 * 128,
    "fusion-scorer": 768 * (768 + 256),
    # Qwen3-1.7B with 24,832 rows of 2,048 in the token table instead of 151,936.
    "semantic-id-1b": 1_720_574_976 - (151_936 - 24_832) * 2_048,
    # Tables 204,184,588 · 128 and the layers of MLPerf's dlrm-v2; tables 1,010,000,128 · 512, 10,241 rows of 512 for
    # position and age, and the layers of dlrm-v3: sums of numel over the real modules.
    "dlrm-dcnv2": 26_151_671_809,
    "hstu-mlperf": 517_136_759_121,
    # On each side a table of 1024² rows of 64 and layers of (64 + 1)·128 and (128 + 1)·64.
    "two-tower": 2 * (2**20 * 64 + 65 * 128 + 129 * 64),
    # Rows of 64: 3,416 items, 2 special tokens, 200 positions, one token type and a norm; a block has 4 projections
    # 64² + 64, the feed-forward 2·64·256 + 256 + 64 and two norms of 2·64; the head 64² + 64, a norm, a bias an item.
    "bert4rec": 64 * (3_418 + 200 + 1 + 2) + 2 * (4 * 4_160 + 33_088 + 256) + 4_160 + 128 + 3_418,
}

SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 32,
    "intermediate_size": 96,
    "vocab_size": 101,
}
OWN = {
    **{kind: {"num_local_experts": 16} for kind in ("mixtral", "gpt_oss", "minimax_m2", "llama4_text")},
    **{kind: {"num_experts": 16} for kind in ("qwen3_moe", "qwen3_vl_moe_text")},
    "distilbert": {"hidden_dim": 96},
}
DECODERS = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "mixtral", "gemma")
DECODERS += ("gpt_oss", "minimax_m2", "llama4_text")
UNSCORED = ("minimax_m2", "llama4_text", "qwen3_vl_text", "qwen3_vl_moe_text")  # transformers has no classifier
HEADS = [(kind, "none") for kind in MODEL_TYPES]
HEADS += [(kind, "classification") for kind in MODEL_TYPES if kind not in UNSCORED]
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
        # arXiv:2508.10925, table 1: 3.61 and 5.13 billion without the token table of 201,088 · 2880.
        ("gpt-oss-20b", 3_608_307_264 + 579_133_440),
        ("gpt-oss-120b", 5_132_849_472 + 579_133_440),
        # All but 15 of 16 experts of 3·5120·8192 in each of 48 blocks; the name says 17 B.
        ("llama-4-scout", 107_769_861_120 - 48 * 15 * 125_829_120),
    ],
)
def test_active_parameters(name, active):
    assert models.architecture(catalogue.model(name)).active_parameters == active


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("bert-base", 768), ("lstm-recommender", 512), ("bert-id-ranker", 256), ("fusion-scorer", 768),
        ("ratings-factorization", 128), ("hstu-mlperf", 512), ("two-tower", 64), ("bert4rec", 64),
    ],
)  # fmt: skip
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
        ("gpt_oss", {"attention_bias": False, "num_key_value_heads": 2, "head_dim": 6}, "language-model"),
        ("minimax_m2", {"num_key_value_heads": 4, "head_dim": 6, "attention_bias": True}, "language-model"),
        ("llama4_text", {"attention_bias": True, "use_qk_norm": False, "intermediate_size_mlp": 7}, "language-model"),
        ("qwen3_vl_text", {"attention_bias": True, "head_dim": 8, "num_key_value_heads": 2}, "none"),
        ("qwen3_vl_moe_text", {"attention_bias": True, "moe_intermediate_size": 40}, "none"),
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
        ({"model_type": "llama4_text", "num_local_experts": 4, "interleave_moe_layer_step": 2}, "none", "dense blocks"),
        ({"model_type": "llama4_text", "num_local_experts": 4, "moe_layers": [1]}, "none", "dense blocks between"),
        ({"model_type": "gpt_oss", "num_local_experts": 4, "layer_types": ["linear_attention"]}, "none", "kinds known"),
        ({"model_type": "gpt_oss", "num_local_experts": 4, "layer_types": 2}, "none", "must be a list"),
    ],
)
def test_what_is_not_known_is_refused(fields, head, said):
    with pytest.raises(InputError, match=said):
        transformer(SMALL | fields, head=head)


def test_an_unknown_type_names_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean qwen3"):
        transformer({"model_type": "qwen33"})


@pytest.mark.parametrize(
    ("kind", "fields", "window", "full"),
    [
        ("gpt_oss", {"num_hidden_layers": 5}, 128, 2),  # windows on blocks 0, 2 and 4
        ("gpt_oss", {"num_hidden_layers": 1}, 128, 0),
        ("gpt_oss", {"sliding_window": None}, None, 0),
        ("gpt_oss", {"layer_types": ["full_attention"] * 2}, None, 0),
        ("gpt_oss", {"layer_types": ["sliding_attention"] * 2, "sliding_window": 9}, 9, 0),
        ("llama4_text", {"num_hidden_layers": 9}, 8192, 2),  # blocks 3 and 7 rotate no positions and see everything
        ("llama4_text", {"layer_types": ["chunked_attention", "full_attention"]}, 8192, 1),
        ("llama4_text", {"no_rope_layers": [0, 1]}, 8192, 1),
        ("mistral", {"sliding_window": 7}, 7, 0),
    ],
)
def test_blocks_without_a_window(kind, fields, window, full):
    model = transformer(small(kind) | fields)
    assert (model.layer.window, model.full_layers) == (window, full)


@pytest.mark.parametrize(
    ("name", "tokens", "positions"),
    [
        ("llama-3.1-8b", 5000, 32 * 5000),
        ("mistral-7b", 5000, 32 * 4096),
        ("gpt-oss-20b", 100, 24 * 100),
        ("gpt-oss-20b", 5000, 12 * 5000 + 12 * 128),
        ("llama-4-scout", 10_000, 12 * 10_000 + 36 * 8192),
    ],
)
def test_positions_a_cache_keeps(name, tokens, positions):
    # Of each position in a block the cache keeps a key and a value of kv_heads · head_dim columns, two bytes each.
    model = models.architecture(catalogue.model(name))
    width = {"gpt-oss-20b": 8 * 64}.get(name, 8 * 128)
    assert memory.kv_cache(model, 3, tokens, "bf16", degree=4) == 3 * positions * 2 * width * 2 / 4
