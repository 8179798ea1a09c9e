"""Scoring and look-ups as recommenders run them: dot and L2 scores, top-k, embedding bags, solves, LSTM."""

from __future__ import annotations

from capacity.work.operations import Distance, Gather, Gemm, Recurrent, Solve, TopK
from kernels.timing import Case, Run
from kernels.torch_backend import Backend, torch


def dot_case(queries: int, vectors: int, width: int, backend: Backend) -> Case:
    """Return the case of dot-product scores of queries against a catalogue."""
    operation = Gemm(m=queries, n=vectors, k=width, dtype="fp32")

    def build() -> Run:
        left, right = backend.random(queries, width), backend.random(vectors, width)
        return lambda: left @ right.T

    return Case(f"dot {queries}x{vectors}x{width}", (operation,), build)


def l2_case(queries: int, vectors: int, width: int, backend: Backend) -> Case:
    """Return the case of Euclidean distances (torch.cdist)."""
    operation = Distance(m=queries, n=vectors, k=width, dtype="fp32")

    def build() -> Run:
        left, right = backend.random(queries, width), backend.random(vectors, width)
        return lambda: torch().cdist(left, right)

    return Case(f"l2 {queries}x{vectors}x{width}", (operation,), build)


def topk_case(rows: int, columns: int, k: int, backend: Backend) -> Case:
    """Return the case of an exact top-k over scores."""
    operation = TopK(rows=rows, columns=columns, k=k, dtype="fp32")

    def build() -> Run:
        scores = backend.random(rows, columns)
        return lambda: torch().topk(scores, k)

    return Case(f"topk {rows}x{columns} k={k}", (operation,), build)


def embedding_bag_case(bags: int, pooled: int, width: int, table_rows: int, backend: Backend) -> Case:
    """Return the case of pooled look-ups (nn.EmbeddingBag, sum) at uniformly random rows."""
    operation = Gather(rows=bags * pooled, width=width, pooled=pooled, dtype="fp32")

    def build() -> Run:
        module = torch()
        table = module.nn.EmbeddingBag(table_rows, width, mode="sum").to(backend.device)
        indices = module.randint(0, table_rows, (bags, pooled), device=backend.device)

        def run() -> object:
            with module.inference_mode():
                return table(indices)

        return run

    return Case(f"embedding bag {bags}x{pooled}x{width} of {table_rows}", (operation,), build)


def lstm_case(batch: int, steps: int, inputs: int, hidden: int, backend: Backend) -> Case:
    """Return the case of one nn.LSTM layer over a batch of histories."""
    operation = Recurrent(batch=batch, steps=steps, inputs=inputs, hidden=hidden, dtype="fp32")

    def build() -> Run:
        module = torch()
        layer = module.nn.LSTM(inputs, hidden, batch_first=True).to(backend.device).eval()
        history = backend.random(batch, steps, inputs)

        def run() -> object:
            with module.inference_mode():
                return layer(history)

        return run

    return Case(f"lstm {batch}x{steps} {inputs}->{hidden}", (operation,), build)


def solve_case(systems: int, size: int, backend: Backend) -> Case:
    """Return the case of batched Cholesky solves, the inside of alternating least squares."""
    operation = Solve(systems=systems, size=size, dtype="fp32")

    def build() -> Run:
        module = torch()
        factors = backend.random(systems, size, size)
        matrices = factors @ factors.mT + module.eye(size, device=backend.device)
        right = backend.random(systems, size, 1)

        def run() -> object:
            return module.cholesky_solve(right, module.linalg.cholesky(matrices))

        return run

    return Case(f"solve {systems}x{size}", (operation,), build)
