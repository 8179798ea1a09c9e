"""Continuous batching one step at a time, with lists and no cleverness: the oracle of `capacity.fleet.continuous`.

Every step visits every running request; every decision reads the rule it follows. Outages are listed; replicas are not
scaled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from capacity.fleet.continuous import Engine, Policy
from capacity.fleet.flow import Flow, Outcome
from capacity.phases.step_table import StepTable


@dataclass(eq=False)
class Request:
    number: int
    arrival_s: float
    prompt: int
    output: int
    prefix: int
    first_s: float
    client: int = -1
    tries: int = 0
    deadline_s: float = math.inf
    tokens: int = 0  # of KV, each of its sequences
    target: int = 0  # tokens once all is read
    length: int = 0  # tokens to read in all
    done: int = 0  # of them, read or spared
    decoding: bool = False
    started: bool = False
    has_kv: bool = False  # came with the KV of its prompt
    steps_left: int = 0
    joined: tuple[int, int] = (0, 0)  # tokens, and the replica's decode steps, when it began to decode
    last_s: float = math.nan
    shares: bool = False
    created: bool = False


@dataclass(eq=False)
class Replica:
    waiting: list[Request] = field(default_factory=list)
    running: list[Request] = field(default_factory=list)
    reading: list[Request] = field(default_factory=list)
    chunks: list[tuple[int, int]] = field(default_factory=list)  # tokens read in this step, tokens before them
    used: int = 0
    users: dict[int, int] = field(default_factory=dict)
    unused: list[int] = field(default_factory=list)  # prefixes nobody uses, the longest unused first
    steps: int = 0
    start_s: float = 0.0
    end_s: float = math.inf
    decodes: bool = False
    idle: bool = True
    up: bool = True
    back_s: float = math.inf

    @property
    def load(self):
        return len(self.waiting) + len(self.running)


def flow(times_s, prompts, outputs, prefixes=None, first_s=None) -> Flow:
    """Return requests as they reach the stage; lengths may be one for all."""
    times = np.asarray(times_s, float)
    count = len(times)
    none, zeros = np.full(count, -1), np.zeros(count, np.int64)
    prefix = none if prefixes is None else np.asarray(prefixes)
    first = np.full(count, np.nan) if first_s is None else np.asarray(first_s, float)
    lengths = (np.broadcast_to(np.asarray(value, np.int64), count).copy() for value in (prompts, outputs))
    return Flow(np.arange(count), times, times, *lengths, prefix, zeros, first)


def straight(row, position):
    left = min(int(position), len(row) - 2)
    return row[left] + (row[left + 1] - row[left]) * (position - left)


class Plain:
    def __init__(self, table: StepTable, engine: Engine, replicas: int, policy: Policy, outages=()):
        self.table, self.engine, self.policy = table, engine, policy
        self.replicas = [Replica() for _ in range(replicas)]
        self.outages = sorted(outages, key=lambda outage: outage[1])
        self.gone: list[tuple[float, int, float, int]] = []  # time, number, first token, outcome
        self.gaps: list[float] = []
        self.preemptions = self.prefix_hits = self.cached_tokens = self.prompt_tokens = self.turn = 0
        self.busy_s = [0.0] * replicas
        self.most_used = [0] * replicas
        self.running_area_s = [0.0] * replicas
        self.now_s, self.clients = 0.0, None

    def grown(self, steps):
        return int(steps * self.engine.tokens_per_step)

    def shared_blocks(self, prefix):
        return self.engine.prefix_tokens[prefix] // self.engine.block_tokens

    def blocks(self, request, tokens):
        whole = request.prompt // self.engine.block_tokens
        each = math.ceil(tokens / self.engine.block_tokens) - whole
        return whole + self.engine.beams * each - (self.shared_blocks(request.prefix) if request.shares else 0)

    def cached(self, replica):
        return sum(self.shared_blocks(prefix) for prefix in replica.unused)

    def evict(self, replica, room):
        while replica.unused and replica.used + self.cached(replica) > room:
            replica.unused.pop(0)

    def admit(self, replica, request, budget):
        engine, block = self.engine, self.engine.block_tokens
        prefix = request.prefix
        long_enough = prefix >= 0 and request.prompt > engine.prefix_tokens[prefix]
        request.shares = long_enough and self.shared_blocks(prefix) > 0
        hit = request.shares and (prefix in replica.users or prefix in replica.unused)
        spared = min(int(engine.prefix_hit_rate * request.prompt), request.prompt - 1) // block * block
        if hit:
            spared = max(spared, self.shared_blocks(prefix) * block)
        if request.has_kv:
            spared = request.prompt
        alone = request.shares and prefix not in replica.users
        need = self.blocks(request, request.target) + (self.shared_blocks(prefix) if alone else 0)
        if not engine.chunked and request.length - spared > budget:
            return False
        if replica.running and replica.used + need > engine.kv_blocks:
            return False
        if request.shares:
            if prefix in replica.unused:
                replica.unused.remove(prefix)
            replica.users[prefix] = replica.users.get(prefix, 0) + 1
            request.created = not hit
            self.prefix_hits += hit
        replica.used += need
        self.evict(replica, engine.kv_blocks)
        request.done, request.has_kv = spared, False
        self.cached_tokens += spared
        return True

    def free(self, replica, request, tokens):
        replica.used -= self.blocks(request, tokens)
        if request.shares:
            replica.users[request.prefix] -= 1
            if replica.users[request.prefix] == 0:
                del replica.users[request.prefix]
                replica.used -= self.shared_blocks(request.prefix)
                if not (request.created and request.done < request.length):
                    replica.unused.append(request.prefix)

    def begin(self, index):
        replica, engine = self.replicas[index], self.engine
        replica.start_s, replica.reading, replica.decodes = self.now_s, [], False
        calm = True
        if not engine.mixed:
            self.read(replica, engine.max_batched_tokens, True)
        if engine.mixed or not replica.reading:
            calm = self.grow(replica)
            replica.decodes = any(request.decoding for request in replica.running)
        if engine.mixed:
            decoding = sum(request.decoding for request in replica.running)
            self.read(replica, engine.max_batched_tokens - decoding * engine.beams * engine.verified_tokens, calm)
        self.most_used[index] = max(self.most_used[index], replica.used)
        replica.idle = not (replica.reading or replica.decodes)
        replica.end_s = math.inf if replica.idle else self.now_s + self.step_s(replica)

    def grow(self, replica):
        """Each decoding request in turn takes the blocks of its next tokens; the last one admitted makes room."""
        calm, place = True, 0
        more = self.grown(replica.steps + 1) - self.grown(replica.steps)
        while place < len(replica.running):
            request = replica.running[place]
            if request.decoding:
                need = self.blocks(request, request.tokens + more) - self.blocks(request, request.tokens)
                while replica.used + need > self.engine.kv_blocks and len(replica.running) > 1:
                    replica.unused.clear()
                    victim, calm = replica.running[-1], False
                    self.preempt(replica, victim)
                    if victim is request:
                        break
                else:
                    replica.used += need
                    request.tokens += more
                    self.evict(replica, self.engine.kv_blocks)
            place += 1
        return calm

    def preempt(self, replica, request):
        self.preemptions += 1
        self.free(replica, request, request.tokens if request.decoding else request.target)
        if request.decoding:
            request.target = request.tokens + 1
            request.length = request.prompt + self.engine.beams * (request.target - request.prompt)
        request.decoding, request.done, request.deadline_s = False, 0, math.inf
        replica.running.remove(request)
        replica.waiting.insert(0, request)

    def read(self, replica, budget, admit):
        replica.chunks = []
        for request in [request for request in replica.running if not request.decoding]:
            budget = self.read_chunk(replica, request, budget)
        while admit and budget > 0 and replica.waiting:
            if (len(replica.running) + 1) * self.engine.beams > self.engine.max_sequences:
                break
            if not self.admit(replica, replica.waiting[0], budget):
                break
            request = replica.waiting.pop(0)
            replica.running.append(request)
            budget = self.read_chunk(replica, request, budget)

    def read_chunk(self, replica, request, budget):
        tokens = min(request.length - request.done, budget)
        replica.chunks.append((tokens, request.done))
        request.done += tokens
        replica.reading.append(request)
        self.prompt_tokens += tokens
        return budget - tokens

    def step_s(self, replica):
        table, engine = self.table, self.engine
        joined = [request.joined for request in replica.running if request.decoding and replica.decodes]
        contexts = [tokens + engine.tokens_per_step * (replica.steps + 1 - step) for tokens, step in joined]
        decoding = len(contexts) * engine.beams
        sequences = decoding + len(replica.reading) * engine.beams
        prompt_tokens = sum(tokens for tokens, _ in replica.chunks)
        device_s = table.linear_s[decoding * engine.verified_tokens + prompt_tokens]
        if contexts:
            mean = sum(contexts) / len(contexts)
            device_s += straight(table.decode_s[decoding], mean / table.context_step)
        for tokens, before in replica.chunks:
            row = tokens / table.query_step
            above = min(int(row), len(table.prefill_s) - 2)
            top, bottom = (straight(table.prefill_s[above + more], before / table.start_step) for more in (0, 1))
            device_s += top + (bottom - top) * (row - above)
        total_s = max(device_s, table.floor_s[sequences]) + table.host_s[sequences]
        return total_s + (table.prompt_s if replica.chunks else 0.0)

    def end(self, index):
        replica, engine = self.replicas[index], self.engine
        if replica.idle:
            return
        step_s = self.now_s - replica.start_s
        self.busy_s[index] += step_s
        decoding = [request for request in replica.running if request.decoding and replica.decodes]
        seen_s = self.now_s + engine.visible_after_s + engine.visible_after_steps * step_s
        replica.steps += replica.decodes
        for request in decoding:
            self.gaps.append(self.now_s - request.last_s)
            request.last_s = self.now_s
            request.steps_left -= 1
        for request in replica.reading:
            if request.done == request.length:
                if request.started:
                    request.steps_left -= 1
                    if not math.isnan(request.last_s):
                        self.gaps.append(self.now_s - request.last_s)
                request.started, request.decoding, request.last_s = True, True, self.now_s
                request.tokens, request.joined = request.target, (request.target, replica.steps)
                if math.isnan(request.first_s):
                    request.first_s = seen_s
        done = [request for request in replica.running if request.decoding and request.steps_left <= 0]
        # of those that finish together: first tokens first, then those admitted last
        for request in [r for r in done if r in replica.reading] + [r for r in done[::-1] if r not in replica.reading]:
            replica.running.remove(request)
            self.free(replica, request, request.tokens)
            self.leave(request, seen_s, Outcome.SERVED)

    def leave(self, request, time_s, outcome):
        self.gone.append((time_s, request.number, request.first_s, int(outcome)))
        if request.client >= 0:
            self.clients[request.client] = time_s

    def renew(self, request):
        cached = self.engine.prompts_cached
        request.steps_left = max(math.ceil((request.output - 1) / self.engine.tokens_per_step), int(cached))
        request.target = request.prompt + cached
        request.length = request.prompt + cached * self.engine.beams
        request.done, request.tokens, request.decoding = 0, 0, False
        request.started, request.has_kv = cached, cached
        request.first_s = request.first_s if cached else math.nan
        request.last_s = request.first_s

    def take(self, request):
        self.renew(request)
        most = request.target + math.ceil(request.steps_left * self.engine.tokens_per_step)
        longest = request.prompt + self.engine.beams * (most - request.prompt)
        too_long = not self.engine.chunked and longest > self.engine.max_batched_tokens
        if self.blocks(request, most) > self.engine.kv_blocks or too_long:
            self.leave(request, self.now_s, Outcome.FAILED)
        else:
            self.arrive(request)

    def arrive(self, request):
        index, limit = self.route(request), self.policy.queue_limit
        if index is None:
            return self.leave(request, self.now_s, Outcome.FAILED)
        replica = self.replicas[index]
        if limit is not None and len(replica.waiting) >= limit:
            return self.leave(request, self.now_s, Outcome.SHED)
        request.deadline_s = self.now_s + self.policy.timeout_s
        replica.waiting.append(request)
        if replica.up and replica.end_s == math.inf:
            replica.end_s = self.now_s

    def route(self, request):
        up = [index for index, replica in enumerate(self.replicas) if replica.up]
        if not up:
            soonest = min(range(len(self.replicas)), key=lambda index: self.replicas[index].back_s)
            return soonest if self.replicas[soonest].back_s < math.inf else None
        if self.policy.routing == "round-robin":
            while self.turn not in up:
                self.turn = (self.turn + 1) % len(self.replicas)
            chosen, self.turn = self.turn, (self.turn + 1) % len(self.replicas)
            return chosen
        least = min(up, key=lambda index: self.replicas[index].load)
        if self.policy.routing == "prefix-aware" and request.prefix >= 0:
            most = self.replicas[least].load + self.policy.imbalance
            near = [index for index in up if self.replicas[index].load <= most]
            holders = [i for i in near if request.prefix in {*self.replicas[i].users, *self.replicas[i].unused}]
            return min(holders, key=lambda index: self.replicas[index].load) if holders else least
        return least

    def again(self, request, outcome):
        request.tries += 1
        if request.tries > self.policy.retries:
            self.leave(request, self.now_s, outcome)
        else:
            self.arrive(request)

    def drop_late(self, index):
        replica = self.replicas[index]
        for request in [request for request in replica.waiting if request.deadline_s <= self.now_s]:
            replica.waiting.remove(request)
            self.again(request, Outcome.TIMED_OUT)

    def change(self):
        lost = []
        for replica in self.replicas:
            if replica.back_s <= self.now_s:
                replica.up, replica.back_s = True, math.inf
                replica.end_s = self.now_s if replica.waiting else math.inf
        while self.outages and self.outages[0][1] <= self.now_s:
            index, _, up_s = self.outages.pop(0)
            replica = self.replicas[index]
            if replica.up:
                lost.append(index)
                replica.up, replica.back_s = False, up_s
            else:
                replica.back_s = max(replica.back_s, up_s)
        stuck = [index for index, r in enumerate(self.replicas) if r.waiting and not r.up and r.back_s == math.inf]
        homeless = []
        for index in sorted({*lost, *stuck}):
            old = self.replicas[index]
            if not old.idle:
                self.busy_s[index] += self.now_s - old.start_s
            waiting = [*old.running, *old.waiting]
            self.replicas[index] = Replica(up=False, back_s=old.back_s, steps=old.steps, waiting=waiting)
            homeless += [(self.replicas[index], request) for request in waiting]
        for replica, request in homeless:
            replica.waiting.remove(request)
            self.renew(request)
            self.again(request, Outcome.FAILED)

    def run(self, flow: Flow, clients=0, ramp_s=0.0):
        """Serve a flow, or its lengths to clients in a closed loop; return (time, number, first token, outcome)."""
        columns = (flow.request, flow.time_s, flow.input_tokens, flow.output_tokens, flow.prefix, flow.first_s)
        coming = [Request(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
        coming.reverse()
        if clients:
            self.clients = [ramp_s * client / clients for client in range(clients)]
        while True:
            arrival_s = math.inf
            if coming:
                arrival_s = min(self.clients) if clients else coming[-1].arrival_s
            backs = [replica.back_s for replica in self.replicas]
            change_s = min([*backs, *(outage[1] for outage in self.outages[:1])])
            ends = [replica.end_s for replica in self.replicas]
            late = [min((r.deadline_s for r in replica.waiting), default=math.inf) for replica in self.replicas]
            now_s = min(arrival_s, change_s, *ends, *late)
            if now_s == math.inf or not (coming or any(replica.load for replica in self.replicas)):
                return sorted(self.gone)
            for index, replica in enumerate(self.replicas):
                self.running_area_s[index] += len(replica.running) * (now_s - self.now_s)
            self.now_s = now_s
            if change_s <= now_s:
                self.change()
            elif arrival_s <= now_s:
                request = coming.pop()
                if clients:
                    request.client = self.clients.index(now_s)
                    self.clients[request.client] = math.inf
                self.take(request)
            else:
                index = min(range(len(ends)), key=lambda index: min(ends[index], late[index]))
                if ends[index] <= now_s:
                    self.end(index)
                    self.begin(index)
                else:
                    self.drop_late(index)
