"""torch.cuda as a replay: a stream on a clock of its own, graphs that remember what they captured. No GPU is needed."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace


class ReplayCuda:
    """torch.cuda on a clock of its own: kernels take what `work` says, a graph replays what it saw while capturing."""

    def __init__(self, real, refuses: str = "") -> None:
        self.real, self.refuses, self.now_ms, self.launches = real, refuses, 0.0, 0
        self.captured_ms: list[float] | None = None

    def __getattr__(self, name: str):
        return getattr(self.real, name)

    def work(self, ms: float) -> None:
        self.launches += 1
        if self.captured_ms is None:
            self.now_ms += ms + 1.0  # what the host needs for a launch of its own
        else:
            self.captured_ms.append(ms)

    def CUDAGraph(self):  # noqa: N802  (torch's own name)
        graph = SimpleNamespace(seen_ms=0.0)

        def begin() -> None:
            self.captured_ms = []

        def end() -> None:
            captured_ms, self.captured_ms = self.captured_ms, None
            if self.refuses:
                raise RuntimeError(self.refuses)
            graph.seen_ms = sum(captured_ms)

        def replay() -> None:
            self.now_ms += graph.seen_ms

        graph.capture_begin, graph.capture_end, graph.replay = begin, end, replay
        return graph

    def Event(self, **_):  # noqa: N802  (torch's own name)
        event = SimpleNamespace(at_ms=None, synchronize=lambda: None)
        event.record = lambda: setattr(event, "at_ms", self.now_ms)
        event.elapsed_time = lambda other: other.at_ms - event.at_ms
        return event

    def stream(self, _):
        return nullcontext()

    def Stream(self):  # noqa: N802
        return SimpleNamespace(wait_stream=lambda other: None)

    current_stream = Stream
    synchronize = current_device = staticmethod(lambda: 0)
