"""Stages small enough to be obviously right, to test the driver with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from capacity.fleet.flow import Flow, Outcome, joined
from capacity.fleet.lengths import Draw


class Stage:
    """Something that tells when requests leave; it keeps those that leave after `until_s`."""

    def __init__(self) -> None:
        self.inside = Flow.of(np.empty(0, np.int64), np.empty(0))
        self.entered = 0

    def leave(self, flow: Flow) -> Flow:
        raise NotImplementedError

    def advance(self, flow: Flow, until_s: float) -> Flow:
        assert np.all(np.diff(flow.time_s) >= 0)
        assert not len(flow) or flow.time_s[-1] <= until_s
        self.entered += len(flow)
        self.inside = joined([self.inside, self.leave(flow)]).sorted()
        gone = int(np.searchsorted(self.inside.time_s, until_s, side="right"))
        left, self.inside = self.inside.at(slice(0, gone)), self.inside.at(slice(gone, None))
        return left

    def statistics(self) -> dict[str, object]:
        return {"entered": self.entered}


class Delay(Stage):
    """So many seconds for each, or as many as a function of the request number says."""

    def __init__(self, seconds) -> None:
        super().__init__()
        self.seconds = seconds

    def leave(self, flow: Flow) -> Flow:
        return flow.delayed(self.seconds(flow.request) if callable(self.seconds) else self.seconds)


class Server(Stage):
    """One server, first come first served, exponential service (Lindley 1952)."""

    def __init__(self, mean_s: float, seed: int = 99) -> None:
        super().__init__()
        self.mean_s, self.seed, self.free_s = mean_s, seed, 0.0

    def leave(self, flow: Flow) -> Flow:
        each = [Draw(self.seed, row, row + 1).uniform()[0, 0] for row in flow.request.tolist()]
        return self.served(flow, -self.mean_s * np.log1p(-np.array(each)))

    def served(self, flow: Flow, service_s: np.ndarray) -> Flow:
        ends_s = np.empty(len(flow))
        for row, (time_s, service) in enumerate(zip(flow.time_s.tolist(), service_s.tolist(), strict=True)):
            self.free_s = ends_s[row] = max(self.free_s, time_s) + service
        return replace(flow, time_s=ends_s)


class Ordered(Server):
    """The same server in a chain where requests come in order: service is drawn at once."""

    def leave(self, flow: Flow) -> Flow:
        if not len(flow):
            return flow
        first, last = int(flow.request[0]), int(flow.request[-1]) + 1
        return self.served(flow, -self.mean_s * np.log1p(-Draw(self.seed, first, last).uniform()[:, 0]))


class Losing(Delay):
    """Some requests end here: every `each`-th with `outcome`."""

    def __init__(self, seconds, each: int, outcome: Outcome, offset: int = 0) -> None:
        super().__init__(seconds)
        self.each, self.outcome, self.offset = each, outcome, offset

    def leave(self, flow: Flow) -> Flow:
        ends = flow.request % self.each == self.offset
        return replace(super().leave(flow), outcome=np.where(ends, int(self.outcome), flow.outcome))


class Generate(Delay):
    """First token after 1 s, the others every 0.1 s."""

    def leave(self, flow: Flow) -> Flow:
        later = replace(flow, first_s=flow.time_s + 1.0)
        return later.delayed(1.0 + 0.1 * (flow.output_tokens - 1))
