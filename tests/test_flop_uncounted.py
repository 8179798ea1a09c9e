"""What FlopCounterMode counts as 0 though it is work: the FLOP here are hand counts, each with its derivation."""

from __future__ import annotations

import pytest

from capacity import catalogue
from capacity.work import models
from capacity.work import operations as ops
from capacity.work import transformer as tf

torch = pytest.importorskip("torch", reason="FlopCounterMode needs torch: pip install 'capacity-planner[calibrate]'")
real = pytest.importorskip("real_modules", reason="the real modules need torch and transformers")
functional = torch.nn.functional


def of_bert(label: str) -> ops.Operation:
    """Return one element-wise operation of a block of BERT base over 6 tokens, `count` taken to 1."""
    operations = tf.encode(models.architecture(catalogue.model("bert-base")), 2, 3, "fp32")
    return next(op for op in operations if op.label == label)


def lstm(device: str):
    return torch.nn.LSTM(4, 6, batch_first=True, device=device)(torch.zeros(3, 5, 4, device=device))


def attention(device: str):
    query = torch.zeros(2, 3, 5, 4, device=device)
    return functional.scaled_dot_product_attention(query, query, query)


def cholesky(device: str):
    matrix = torch.eye(6, device=device).expand(3, 6, 6)
    return torch.cholesky_solve(torch.ones(3, 6, 1, device=device), torch.linalg.cholesky(matrix))


def bag(device: str):
    table = torch.nn.EmbeddingBag(50, 16, mode="sum", device=device)
    return table(torch.zeros(4, 7, dtype=torch.long, device=device))


def gather(device: str):
    return torch.nn.Embedding(50, 16, device=device)(torch.zeros(28, dtype=torch.long, device=device))


ON_BOTH = {
    "L2 distance": (
        lambda device: torch.cdist(torch.zeros(8, 16, device=device), torch.zeros(9, 16, device=device)),
        ops.Distance(m=8, n=9, k=16, dtype="fp32"),
        # ‖a‖² + ‖b‖² − 2·a·b: 8·9 products of 16 multiply-adds, 8 + 9 norms of 16 multiply-adds; for each of the 72
        # pairs two additions and a root.
        2 * 8 * 9 * 16 + 2 * (8 + 9) * 16 + 3 * 72,
    ),
    "L2 distance by products": (  # above 25 rows torch itself uses the formula with the product, still uncounted
        lambda device: torch.cdist(torch.zeros(64, 16, device=device), torch.zeros(64, 16, device=device)),
        ops.Distance(m=64, n=64, k=16, dtype="fp32"),
        2 * 64 * 64 * 16 + 2 * (64 + 64) * 16 + 3 * 64 * 64,
    ),
    "top-k": (
        lambda device: torch.topk(torch.zeros(4, 100, device=device), 5),
        ops.TopK(rows=4, columns=100, k=5, dtype="fp32"),
        4 * 100,  # each score is compared once with the least of those kept
    ),
    "embedding bag": (
        bag,
        ops.Gather(rows=28, width=16, pooled=7, dtype="fp32"),
        28 * 16,  # each value of each of 4·7 rows is added once
    ),
    "embedding": (gather, ops.Gather(rows=28, width=16, dtype="fp32"), 0),  # rows are moved, nothing is computed
    "Cholesky solve": (
        cholesky,
        ops.Solve(systems=3, size=6, dtype="fp32"),
        # The factor n³/3, a forward and a backward substitution n² each (Golub & Van Loan, Matrix Computations, §4.2).
        3 * (6**3 // 3 + 2 * 6**2),
    ),
    # Element by element as in https://github.com/google-research/electra/blob/master/flops_computation.py
    "softmax": (
        lambda device: torch.zeros(6, 100, device=device).softmax(-1),
        ops.Streaming(kind="softmax", elements=600, dtype="fp32", flop_per_element=5),
        5 * 600,  # maximum, subtract, exponential, sum, divide
    ),
    "layer norm": (
        lambda device: functional.layer_norm(torch.zeros(6, 768, device=device), (768,)),
        of_bert("norm"),
        5 * 6 * 768,  # mean; square and sum of the variance; bias; scale
    ),
    "GELU": (
        lambda device: functional.gelu(torch.zeros(6, 3072, device=device)),
        of_bert("gelu"),
        8 * 6 * 3072,  # ½·x·(1 + tanh(√(2/π)·(x + 0.044715·x³))): eight operations
    ),
    "residual": (
        lambda device: torch.zeros(6, 768, device=device) + torch.zeros(6, 768, device=device),
        of_bert("residual"),
        6 * 768,  # one addition
    ),
}
ON_CPU_ONLY = {
    # Taken apart on the meta device, one fused kernel on the CPU: there the counter sees no product.
    "LSTM": (
        lstm,
        ops.Recurrent(batch=3, steps=5, inputs=4, hidden=6, dtype="fp32"),
        2 * 3 * 5 * (4 * 6) * (4 + 6),  # 15 vectors, input of 4 and state of 6 beside each other, times four gates of 6
    ),
    "scaled dot product attention": (
        attention,
        ops.Attention(batch=2, heads=3, kv_heads=3, query=5, keys=5, head_dim=4, dtype="fp32"),
        2 * 2 * (2 * 3) * (5 * 5) * 4,  # Q·Kᵀ and P·V: two products over 5·5 pairs of 4 values in 6 heads
    ),
}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("function", "operation", "hand"), ON_BOTH.values(), ids=ON_BOTH)
def test_uncounted(function, operation, hand, device):
    assert real.counted(lambda: function(device)).total == operation.counter_flop == 0
    assert operation.flop == hand


@pytest.mark.parametrize(("function", "operation", "hand"), ON_CPU_ONLY.values(), ids=ON_CPU_ONLY)
def test_uncounted_on_the_cpu(function, operation, hand):
    assert real.counted(lambda: function("cpu")).total == 0
    assert real.counted(lambda: function("meta")).total == operation.counter_flop == operation.flop == hand
