"""The expert part of a mixture-of-experts block: a router, then grouped products over the tokens each expert gets."""

from __future__ import annotations

import numpy as np

from capacity.work.architecture import Layer
from capacity.work.operations import Amount, Gemm, GroupedGemm, Operation, Streaming


def experts(layer: Layer, tokens: Amount, dtype: str, weight_dtype: str | None = None) -> tuple[Operation, ...]:
    """Return the operations of one expert layer for `tokens` tokens.

    The routed tokens, `tokens · experts_per_token`, spread evenly over the experts that are hit; fewer tokens hit fewer
    experts: `experts · (1 − (1 − experts_per_token/experts)^tokens)` of them in expectation, whose weights are read.
    FLOP do not depend on the spread; the weight traffic does. A shared expert is a dense part for all tokens.
    """
    total, chosen = layer.experts, layer.experts_per_token
    routed = tokens * chosen
    hit = np.maximum(total * (1 - (1 - chosen / total) ** np.asarray(tokens, dtype=float)), 1.0)
    inner = (2 if layer.gated else 1) * layer.intermediate
    common = {"dtype": dtype, "weight_dtype": weight_dtype}
    stream_dtype = dtype if dtype in {"fp32", "fp16", "bf16"} else "fp16"
    routing = (
        Gemm(m=tokens, n=total, k=layer.hidden, label="router", **common),  # type: ignore[arg-type]
        Streaming(kind="softmax", elements=tokens * total, dtype=stream_dtype, flop_per_element=5, label="routing"),
        GroupedGemm(routed=routed, groups=hit, n=inner, k=layer.hidden, label="expert up", **common),  # type: ignore[arg-type]
        Streaming(kind="activation", elements=routed * layer.intermediate, dtype=stream_dtype, label="gate"),
        GroupedGemm(routed=routed, groups=hit, n=layer.hidden, k=layer.intermediate, label="expert down", **common),  # type: ignore[arg-type]
        Streaming(kind="add", elements=routed * layer.hidden, dtype=stream_dtype, reads=2, label="combine"),
    )
    if not layer.shared_intermediate:
        return routing
    wide, elements = layer.shared_intermediate * inner // layer.intermediate, tokens * layer.shared_intermediate
    return (
        *routing,
        Gemm(m=tokens, n=wide, k=layer.hidden, label="shared up", **common),  # type: ignore[arg-type]
        Streaming(kind="activation", elements=elements, dtype=stream_dtype, label="shared gate"),
        Gemm(m=tokens, n=layer.hidden, k=layer.shared_intermediate, label="shared down", **common),  # type: ignore[arg-type]
    )
