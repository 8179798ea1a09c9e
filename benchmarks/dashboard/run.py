"""The dashboard beside the least Streamlit app there is: first paint, what-if reruns of many users, memory, a soak.

    python benchmarks/dashboard/run.py [--users 1 20 50] [--rounds 3] [--clicks 10] [--soak-minutes 30] [--json FILE]

Both apps run in turns on the same machine with the settings of .streamlit/config.toml. A visitor clicks every two
seconds and speaks Streamlit's own protocol; no browser draws anything. "repeated" moves the rate among a few steps of
the slider that all users share, as in life; "new" asks for a rate that nobody asked for before. CPU seconds of the
server stand beside wall time: a busy machine stretches the one and hardly the other. Linux only. Exit 1 when a goal is
missed or a session is lost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import count, cycle
from pathlib import Path
from time import monotonic, perf_counter

from server import OURS, TOY, App, Server, started
from visitor import LostError, Visitor, arrived

PERIOD_S = 2.0
STEPS = slice(4, 16)
"""Steps of the slider that visitors repeat."""
PAUSE_S = 0.1
MEMORY_GOAL_BYTES = 300e6
APPS = (OURS, TOY)


@dataclass(slots=True)
class Reruns:
    """What visitors of one app found with one number of users."""

    app: str
    users: int
    values: str
    times_s: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    memory_bytes: float = 0.0
    lost: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def median_s(self) -> float:
        """Median time of a rerun [s]."""
        return statistics.median(self.times_s)

    @property
    def p95_s(self) -> float:
        """Time within which 95 % of the reruns finished [s]."""
        return statistics.quantiles(self.times_s, n=20, method="inclusive")[-1]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a figure of ours beside the toy's."""

    name: str
    unit: str
    ours: float
    toy: float
    goal: float | None = None
    """Most that ours ÷ toy may be."""

    @property
    def ratio(self) -> float:
        """Ours ÷ toy."""
        return self.ours / self.toy

    @property
    def met(self) -> bool:
        """Whether the goal is met; true where there is none."""
        return self.goal is None or self.ratio <= self.goal


async def first_paint(app: App) -> tuple[float, float]:
    """Return wall and CPU seconds from the start of the process until the first script run has finished."""
    before_s = perf_counter()
    with started(app) as server:
        visitor = await arrived(server.port)
        await visitor.opened()
        taken = perf_counter() - before_s, server.cpu_s
        await visitor.socket.close()
        if visitor.errors:
            raise LostError(f"{app.name}: {visitor.errors[0]}")
    return taken


def new_rates() -> Iterator[float]:
    """Yield rates nobody asked for before."""
    return (30 + number / 100 for number in count(1))


async def visit(server: Server, app: App, found: Reruns, start_s: float, end_s: float, rates: Iterator[float]) -> None:
    """Open the app, click every two seconds from `start_s` until `end_s`, and note what happened."""
    try:
        visitor = await arrived(server.port)
        await visitor.opened()
        await asyncio.sleep(max(0.0, start_s - monotonic()))
        await _click(visitor, app, found, end_s, rates)
        found.errors += visitor.errors
        await visitor.socket.close()
    except LostError as error:
        found.lost.append(str(error))


async def _click(visitor: Visitor, app: App, found: Reruns, end_s: float, rates: Iterator[float]) -> None:
    key = app.new_key if found.values == "new" else app.step_key
    steps = cycle(visitor.steps(key)[STEPS] or [str(1000 + place) for place in range(12)])
    for _ in range(len(found.times_s) % 12):
        next(steps)
    while (now_s := monotonic()) < end_s:
        value = _typed(app, next(rates)) if found.values == "new" else next(steps)
        found.times_s.append(await visitor.moved(key, value))
        await asyncio.sleep(max(0.0, now_s + PERIOD_S - monotonic()))


def _typed(app: App, rate: float) -> str:
    return f"{rate:.2f}/s" if app is OURS else f"{100 * rate:.0f}"


async def reruns(server: Server, app: App, found: Reruns, duration_s: float, rates: Iterator[float]) -> None:
    """Let `found.users` visitors click for a while, spread evenly over the two seconds between clicks."""
    ready_s = monotonic() + 1 + 0.6 * found.users
    tasks = []
    for place in range(found.users):
        start_s = ready_s + place * PERIOD_S / found.users
        tasks.append(asyncio.create_task(visit(server, app, found, start_s, start_s + duration_s, rates)))
        await asyncio.sleep(PAUSE_S)
    await asyncio.sleep(max(0.0, ready_s - monotonic()))
    before_s, before_reruns = server.cpu_s, len(found.times_s)
    await asyncio.gather(*tasks)
    found.cpu_s += (server.cpu_s - before_s) * bool(len(found.times_s) - before_reruns)
    found.memory_bytes = max(found.memory_bytes, server.memory_bytes)
    found.errors += server.defects


async def measured(users: list[int], rounds: int, clicks: int) -> list[Reruns]:
    """Return the reruns of both apps for each number of users and kind of value, measured in turns."""
    found: dict[tuple[str, int, str], Reruns] = {}
    rates = new_rates()
    for _ in range(rounds):
        for app in APPS:
            with started(app) as server:
                for many in users:
                    for values in ("repeated", "new"):
                        mine = found.setdefault((app.name, many, values), Reruns(app.name, many, values))
                        await reruns(server, app, mine, clicks * PERIOD_S, rates)
    return list(found.values())


async def soaked(users: int, minutes: float) -> Reruns:
    """Return what `users` visitors of our dashboard found in a long visit."""
    found = Reruns("ours", users, "repeated")
    with started(OURS) as server:
        await reruns(server, OURS, found, minutes * 60, new_rates())
    return found


def rows(paints: dict[str, list[tuple[float, float]]], found: list[Reruns]) -> list[Row]:
    """Return the table of figures with their ratios."""
    wall, cpu = ({name: statistics.median(pair[place] for pair in paints[name]) for name in paints} for place in (0, 1))
    table = [
        Row("start to first paint", "s", wall["ours"], wall["toy"], 2.0),
        Row("start to first paint, CPU", "s", cpu["ours"], cpu["toy"]),
    ]
    toys = {(each.users, each.values): each for each in found if each.app == "toy"}
    for ours in (each for each in found if each.app == "ours" and each.times_s):
        toy = toys[ours.users, ours.values]
        name, goal = f"{ours.users} users, {ours.values} values", 1.5 if ours.values == "repeated" else None
        table += [
            Row(f"{name}: median", "ms", ours.median_s * 1e3, toy.median_s * 1e3, goal),
            Row(f"{name}: p95", "ms", ours.p95_s * 1e3, toy.p95_s * 1e3, goal if ours.users > 1 else None),
            Row(f"{name}: CPU", "ms/rerun", *(each.cpu_s / len(each.times_s) * 1e3 for each in (ours, toy))),
        ]
    most = [max(each.memory_bytes for each in found if each.app == app.name) / 1e6 for app in APPS]
    return [*table, Row("resident memory", "MB", *most)]


def _shown(table: list[Row], problems: list[str]) -> None:
    print(f"{'figure':38}{'unit':>10}{'ours':>10}{'toy':>10}{'ours/toy':>10}{'goal':>8}")
    for row in table:
        goal = "" if row.goal is None else f"≤ {row.goal:g}" + ("" if row.met else " !")
        print(f"{row.name:38}{row.unit:>10}{row.ours:10.4g}{row.toy:10.4g}{row.ratio:10.2f}{goal:>8}")
    for problem in problems:
        print(problem)


def _problems(table: list[Row], found: list[Reruns]) -> list[str]:
    said = [f"missed: {row.name}: {row.ratio:.2f} × the toy's, goal {row.goal:g}" for row in table if not row.met]
    memory = max((each.memory_bytes for each in found if each.app == "ours"), default=0.0)
    if memory > MEMORY_GOAL_BYTES:
        said.append(f"missed: resident memory {memory / 1e6:.0f} MB, goal {MEMORY_GOAL_BYTES / 1e6:.0f} MB")
    for each in found:
        said += [f"{each.app}, {each.users} users: lost a session: {what}" for what in each.lost]
        said += [f"{each.app}, {each.users} users: {what}" for what in dict.fromkeys(each.errors)]
    return said


async def _all(options: argparse.Namespace) -> int:
    paints: dict[str, list[tuple[float, float]]] = {app.name: [] for app in APPS}
    for turn in range(options.starts + 1):
        for app in APPS:
            taken = await first_paint(app)
            if turn:  # the first start compiles
                paints[app.name].append(taken)
    found = await measured(options.users, options.rounds, options.clicks)
    table = rows(paints, found)
    if options.soak_minutes:
        soak = await soaked(20, options.soak_minutes)
        found.append(soak)
        print(
            f"soak of 20 users, {options.soak_minutes:g} min: {len(soak.times_s):,} reruns, {len(soak.lost)} lost "
            f"sessions, {len(soak.errors)} errors, median {soak.median_s * 1e3:.0f} ms, p95 {soak.p95_s * 1e3:.0f} ms, "
            f"{soak.memory_bytes / 1e6:.0f} MB"
        )
    problems = _problems(table, found)
    _shown(table, problems)
    if options.json:
        content = {
            "table": [{**asdict(row), "ratio": row.ratio, "met": row.met} for row in table], "first_paint_s": paints,
            "reruns": [asdict(each) for each in found], "problems": problems,
        }  # fmt: skip
        options.json.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return int(bool(problems))


def main() -> int:
    """Measure both apps, print the table, return 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--users", type=int, nargs="+", default=[1, 20, 50])
    parser.add_argument("--starts", type=int, default=5, help="starts of each app")
    parser.add_argument("--rounds", type=int, default=3, help="times that the apps take turns")
    parser.add_argument("--clicks", type=int, default=10, help="clicks of each user a round")
    parser.add_argument("--soak-minutes", type=float, default=30.0, help="0 for none")
    parser.add_argument("--json", type=Path, help="file for every time")
    return asyncio.run(_all(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
