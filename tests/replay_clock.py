"""Times written down before, played back: a `Clock` of `kernels.timing` that runs no kernel and takes no time."""

from __future__ import annotations

from collections.abc import Callable


class Recorded:
    """Stands for a kernel: its seconds a call, one for each measurement; the last one repeats."""

    def __init__(self, *seconds: float) -> None:
        self.seconds, self.taken = seconds, 0

    def __call__(self) -> None:
        raise AssertionError("a replay runs nothing")

    def next_s(self) -> float:
        self.taken += 1
        return self.seconds[min(self.taken, len(self.seconds)) - 1]


class ReplayClock:
    """Plays back what each run was recorded to take; `interrupted_after` measurements it is stopped as by Ctrl-C."""

    def __init__(self, interrupted_after: int | None = None) -> None:
        self.interrupted_after = interrupted_after
        self.asked: list[tuple[Callable[[], object], int]] = []

    def time(self, run: Callable[[], object], inner: int) -> float:
        if self.interrupted_after is not None and len(self.asked) >= self.interrupted_after:
            raise KeyboardInterrupt
        self.asked.append((run, inner))
        assert isinstance(run, Recorded)
        return run.next_s() * inner
