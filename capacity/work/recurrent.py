"""The LSTM recommender: embedding → LSTM → dense softmax over the catalogue."""

from __future__ import annotations

from capacity.spec.model import LstmModel
from capacity.work.operations import Amount, Gather, Gemm, Operation, Recurrent, Streaming, backward


def parameters(model: LstmModel) -> int:
    """Return the parameters of `nn.Embedding`, `nn.LSTM` and the output layer with bias, as torch counts them."""
    hidden = model.hidden_size
    first = 4 * hidden * (model.embedding_size + hidden + 2)
    further = (model.layers - 1) * 4 * hidden * (2 * hidden + 2)
    return model.items * model.embedding_size + first + further + model.items * (hidden + 1)


def next_item(
    model: LstmModel, batch: Amount, steps: Amount, dtype: str, *, positions: str = "last"
) -> tuple[Operation, ...]:
    """Return the operations that score every item after histories of `steps` items.

    `positions` = "last" scores the next item only (serving), "all" one after every step (training).
    """
    rows = batch * steps if positions == "all" else batch
    first = Recurrent(batch=batch, steps=steps, inputs=model.embedding_size, hidden=model.hidden_size, dtype=dtype)
    further = Recurrent(
        batch=batch,
        steps=steps,
        inputs=model.hidden_size,
        hidden=model.hidden_size,
        dtype=dtype,
        count=model.layers - 1,
    )
    return (
        Gather(rows=batch * steps, width=model.embedding_size, dtype=dtype, label="item embedding"),
        first,
        *((further,) if model.layers > 1 else ()),
        Gemm(m=rows, n=model.items, k=model.hidden_size, dtype=dtype, label="item scores"),
        Streaming(kind="softmax", elements=rows * model.items, dtype=dtype, flop_per_element=5, label="softmax"),
    )


def training_step(model: LstmModel, batch: Amount, steps: Amount, dtype: str) -> tuple[Operation, ...]:
    """Return forward and backward of one step of next-item cross entropy over every position."""
    operations = next_item(model, batch, steps, dtype, positions="all")
    return operations + backward(operations)
