"""What published recommenders compute for a batch of samples: NVIDIA's DeepLearningExamples, as the tables name them.

References
----------
NVIDIA/DeepLearningExamples, PyTorch/Recommendation/DLRM, TensorFlow2/Recommendation/DLRM_and_DCNv2 (dcnv2.py,
doc/DCNv2.md), PyTorch/Recommendation/NCF (ncf.py), TensorFlow2/Recommendation/WideAndDeep (trainer/utils/arguments.py,
data/outbrain/features.py and embedding_sizes.json), TensorFlow2/Recommendation/SIM (main.py, sim/models/sim_model.py);
VAE-CF: Liang et al. 2018, arXiv:1802.05814, §4.1 (I → 600 → 200 → 600 → I) and table 1 (MovieLens-20M).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from capacity.spec.model import DlrmModel
from capacity.work import interaction
from capacity.work.operations import Amount, Gather, Gemm, Operation, Recurrent, Streaming, TopK
from capacity.work.optimizer import Optimizer
from capacity.work.transformer import LAUNCHES, Fusion

Work = Callable[[Amount, str, Fusion], tuple[Operation, ...]]
TABLE_DTYPE = "fp32"
"""What embedding tables are kept in, whatever the layers multiply in (DLRM_and_DCNv2, doc/DCNv2.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A published recommender.

    Attributes
    ----------
    forward
        Samples, dtype and fusion → the operations of one forward pass.
    parameters
        Entries of all layers, which every training step updates.
    table_values
        Table entries that one sample reads.
    table_entries
        Entries of all tables where a step updates every one of them; 0 where it updates what it read.
    optimizer
        What training updates with.
    sharded
        Whether devices that train together share the tables, and not just the gradients.
    sent_bytes
        What one sample brings to the device [byte]: 4 for each number or id.
    """

    forward: Work
    parameters: float
    table_values: float
    table_entries: float = 0.0
    optimizer: Optimizer = "adamw"
    sharded: bool = False
    sent_bytes: float


# --- Criteo: DLRM and DCNv2 -----------------------------------------------------------------------------------------


def _criteo(name: str, interacts: Literal["dot", "cross"]) -> DlrmModel:
    """Return a model of 26 one-hot tables; how many rows they have changes their memory, and not a sample's work."""
    cross = interacts == "cross"
    return DlrmModel(
        id=name, name=name, family="dlrm", source="NVIDIA/DeepLearningExamples", dense_features=13, tables=(1,) * 26,
        embedding_size=128, bottom=(512, 256, 128), interaction=interacts, cross_layers=3 if cross else 0,
        cross_rank=512 if cross else 0, top=(1024, 1024, 512, 256, 1),
    )  # fmt: skip


def _clicks(model: DlrmModel, optimizer: Optimizer) -> Network:
    def forward(samples: Amount, dtype: str, fusion: Fusion) -> tuple[Operation, ...]:
        work = interaction.score_pairs(model, samples, dtype, fusion)
        return tuple(replace(each, dtype=TABLE_DTYPE) if isinstance(each, Gather) else each for each in work)

    tables, width = len(model.tables), model.embedding_size
    return Network(
        forward=forward, parameters=interaction.parameters(model) - tables * width, table_values=tables * width,
        optimizer=optimizer, sharded=True, sent_bytes=4.0 * (tables + model.dense_features),
    )  # fmt: skip


# --- MovieLens-20M: NCF and VAE-CF ----------------------------------------------------------------------------------

USERS, ITEMS = 138_493, 26_744
"""Of MovieLens-20M as NCF reads it."""
FACTORS, NCF_LAYERS = 64, (256, 256, 128, 64)
VAE_ITEMS, VAE_HIDDEN, VAE_LATENT = 20_108, 600, 200
VAE_EVENTS = 73
"""Mean items of a user: 10.0 M interactions of 136,677 users."""


def _ncf(samples: Amount, dtype: str, fusion: Fusion) -> tuple[Operation, ...]:
    """Return a product of factors and a perceptron over wider embeddings, side by side, then one unit over both."""
    half = NCF_LAYERS[0] // 2
    return (
        Gather(rows=2 * samples, width=FACTORS, dtype=TABLE_DTYPE, label="factors"),
        Gather(rows=2 * samples, width=half, dtype=TABLE_DTYPE, label="embeddings"),
        Streaming(kind="add", elements=samples * FACTORS, dtype=dtype, reads=2, label="product of factors"),
        Streaming(kind="copy", elements=samples * 2 * half, dtype=dtype, label="user beside item"),
        *_layers(NCF_LAYERS, samples, dtype, fusion),
        Streaming(kind="copy", elements=samples * 2 * FACTORS, dtype=dtype, label="product beside perceptron"),
        Gemm(m=samples, n=1, k=2 * FACTORS, dtype=dtype, label="rating"),
    )


def _vae(samples: Amount, dtype: str, fusion: Fusion) -> tuple[Operation, ...]:
    """Return encoder and decoder of a user: the first layer sums the rows of her items, the last scores every item."""
    return (
        Gather(rows=samples * VAE_EVENTS, width=VAE_HIDDEN, dtype=TABLE_DTYPE, pooled=VAE_EVENTS, label="her items"),
        Streaming(kind="activation", elements=samples * VAE_HIDDEN, dtype=dtype, label="tanh"),
        Gemm(m=samples, n=2 * VAE_LATENT, k=VAE_HIDDEN, dtype=dtype, label="mean and variance"),
        *_layers((VAE_LATENT, VAE_HIDDEN), samples, dtype, fusion),
        Gemm(m=samples, n=VAE_ITEMS, k=VAE_HIDDEN, dtype=dtype, label="item scores"),
        Streaming(kind="softmax", elements=samples * VAE_ITEMS, dtype=dtype, flop_per_element=5, label="softmax"),
    )


# --- Outbrain: Wide&Deep --------------------------------------------------------------------------------------------

WIDE_TABLES, WIDE_ROWS, WIDE_NUMBERS = 16, 22, 13
"""13 one-hot and three 3-hot features, and numbers beside them."""
WIDE_VALUES = 4 * 128 + 11 * 64 + 19
"""Values of all embeddings: 4 of 128, 11 of 64 and one of 19."""
DEEP_LAYERS = (WIDE_VALUES + WIDE_NUMBERS, 1024, 1024, 1024, 1024, 1024)


def _wide_and_deep(samples: Amount, dtype: str, fusion: Fusion) -> tuple[Operation, ...]:
    """Return embeddings and numbers through five layers, beside one weight for each feature."""
    return (
        Gather(
            rows=samples * WIDE_ROWS, width=WIDE_VALUES / WIDE_TABLES, dtype=TABLE_DTYPE,
            pooled=WIDE_ROWS / WIDE_TABLES, label="embeddings",
        ),
        Gather(rows=samples * WIDE_ROWS, width=1, dtype=TABLE_DTYPE, pooled=WIDE_ROWS, label="wide weights"),
        Streaming(kind="copy", elements=samples * DEEP_LAYERS[0], dtype=dtype, label="features side by side"),
        *_layers(DEEP_LAYERS, samples, dtype, fusion),
        Gemm(m=samples, n=1, k=DEEP_LAYERS[-1], dtype=dtype, label="deep score"),
        Streaming(kind="activation", elements=samples, dtype=dtype, reads=2, flop_per_element=4, label="sigmoid"),
    )  # fmt: skip


# --- Amazon Books: SIM ----------------------------------------------------------------------------------------------

EMBEDDING, LONG, SHORT, KEPT = 16, 90, 10, 50
"""Width of an id, lengths of the long and the short history (10 assumed: of 100 events), and events searched out."""
ITEM, STATE = 2 * EMBEDDING, 6 * EMBEDDING
"""An item is its id and its category; the recurrent states are six embeddings wide."""
SIM_IDS = 1 + 2 * (1 + LONG + SHORT)


def _sim(samples: Amount, dtype: str, fusion: Fusion) -> tuple[Operation, ...]:
    """Return both stages: attention over the long history, then over its best events, and two GRUs over the short one.

    Of a cell with three gates a `Recurrent` of four at the same traffic is 4/3: its hidden width is what counts, and
    three quarters of it make the same products.
    """
    gates = 0.75**0.5 * STATE
    return (
        Gather(rows=samples * SIM_IDS, width=EMBEDDING, dtype=TABLE_DTYPE, label="histories"),
        *_attention(samples, LONG, dtype),
        *_layers((2 * ITEM + EMBEDDING, 200, 1), samples, dtype, fusion),
        TopK(rows=samples, columns=LONG, k=KEPT, dtype=dtype, label="best events"),
        Streaming(kind="copy", elements=samples * KEPT * ITEM, dtype=dtype, label="their embeddings"),
        *_attention(samples, KEPT, dtype),
        Streaming(kind="add", elements=samples * KEPT * ITEM, dtype=dtype, writes=0, label="their mean"),
        Recurrent(batch=samples, steps=SHORT, inputs=ITEM, hidden=gates, dtype=dtype, label="GRU"),
        Gemm(m=samples * SHORT, n=STATE, k=ITEM, dtype=dtype, label="attention of states"),
        Recurrent(batch=samples, steps=SHORT, inputs=STATE, hidden=gates, dtype=dtype, label="attentive GRU"),
        *_layers((3 * ITEM + STATE + EMBEDDING, 200, 80, 1), samples, dtype, fusion),
    )


def _attention(samples: Amount, events: int, dtype: str) -> tuple[Operation, ...]:
    """Return weights of a history by its dots with the candidate, and its weighted sum, as element-wise kernels."""
    values = samples * events * ITEM
    return (
        Streaming(kind="copy", elements=values, dtype=dtype, reads=1, label="mask"),
        Streaming(kind="add", elements=values, dtype=dtype, writes=0, flop_per_element=2, label="dots"),
        Streaming(kind="softmax", elements=samples * events, dtype=dtype, flop_per_element=5, label="softmax"),
        Streaming(kind="add", elements=values, dtype=dtype, label="weighted events"),
        Streaming(kind="add", elements=values, dtype=dtype, writes=0, label="their sum"),
    )


# --------------------------------------------------------------------------------------------------------------------


def _layers(widths: tuple[int, ...], samples: Amount, dtype: str, fusion: Fusion) -> tuple[Operation, ...]:
    """Return linear layers, each followed by its activation where no kernel has it built in."""
    operations: list[Operation] = []
    for inputs, outputs in pairwise(widths):
        operations.append(Gemm(m=samples, n=outputs, k=inputs, dtype=dtype, label=f"layer of {outputs}"))
        if LAUNCHES[fusion].activation:
            operations.append(Streaming(kind="activation", elements=samples * outputs, dtype=dtype, label="activation"))
    return tuple(operations)


def _weights(*widths: int) -> float:
    """Return the entries of linear layers with bias.

    Examples
    --------
    >>> _weights(2, 3, 1)
    13.0
    """
    return float(sum(inputs * outputs + outputs for inputs, outputs in pairwise(widths)))


NETWORKS: Mapping[str, Network] = {
    "DLRM": _clicks(_criteo("dlrm-criteo", "dot"), "sgd"),
    "DCNv2": _clicks(_criteo("dcnv2-criteo", "cross"), "adamw"),
    "NCF": Network(
        forward=_ncf, parameters=_weights(*NCF_LAYERS) + 2 * FACTORS + 1,
        table_values=2.0 * (FACTORS + NCF_LAYERS[0] // 2),
        table_entries=float((USERS + ITEMS) * (FACTORS + NCF_LAYERS[0] // 2)), sent_bytes=8.0,
    ),
    "VAE-CF": Network(
        forward=_vae,
        parameters=_weights(VAE_HIDDEN, 2 * VAE_LATENT) + _weights(VAE_LATENT, VAE_HIDDEN, VAE_ITEMS),
        table_values=float(VAE_EVENTS * VAE_HIDDEN), table_entries=float(VAE_ITEMS * VAE_HIDDEN),
        sent_bytes=4.0 * VAE_EVENTS,
    ),
    "Wide&Deep": Network(
        forward=_wide_and_deep, parameters=_weights(*DEEP_LAYERS, 1),
        table_values=WIDE_ROWS * WIDE_VALUES / WIDE_TABLES, sent_bytes=4.0 * (WIDE_ROWS + WIDE_NUMBERS),
    ),
    "SIM": Network(
        forward=_sim,
        parameters=_weights(2 * ITEM + EMBEDDING, 200, 1) + _weights(3 * ITEM + STATE + EMBEDDING, 200, 80, 1)
        + 3.0 * STATE * (ITEM + 3 * STATE + 2),
        table_values=float(SIM_IDS * EMBEDDING), sent_bytes=4.0 * SIM_IDS,
    ),
}  # fmt: skip
"""Name in the tables, without what is said of its size → the network."""
