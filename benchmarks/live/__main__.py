"""A real server beside the simulator: `python -m benchmarks.live --seed 7`.

mosec serves MiniLM-L6 on one core of this machine with dynamic batching; Poisson loads between 40 and 80 % and lengths
are drawn from the seed. The machine is calibrated without load; calibration and predictions are written to files before
the first request of a load is sent. Each load is measured twice: the ratio of the two is the repeat noise.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.live.predict import QUANTILES
from benchmarks.live.proof import Plan, Row, proof
from benchmarks.live.server import rig

MOST_WAITED, MOST_OTHERS = 0.02, 0.1
"""Shares of a run that the server may wait for its cores, and that others may work, before it counts as disturbed."""


def shown(rows: list[Row]) -> str:
    """Return the table of all loads."""
    names = [f"p{100 * share:g}" for share in QUANTILES]
    lines = [f"{'load':>5}{'req/s':>8}{'texts/batch':>16}  {'ms':>4}{'predicted':>11}{'measured':>18}   error   repeat"]
    for row in rows:
        said = row.predicted
        batch = f"{said.mean_batch:.2f} ({row.measured[0].mean_batch:.2f})"
        head = f"{said.load:5.0%}{said.rate:8.1f}{batch:>16}"
        for index, name in enumerate(names):
            both = " ".join(f"{1e3 * each.latency_s[index]:8.2f}" for each in row.measured)
            line = f"{head:29}  {name:>4}{1e3 * said.latency_s[index]:11.2f}{both:>18}"
            lines.append(line + f"{row.errors[index]:+9.1%}{row.noise[index]:+9.1%}")
            head = ""
        both = " ".join(f"{1e3 * each.batch_s:8.2f}" for each in row.measured)
        lines.append(f"{'core/batch':>35}{1e3 * said.batch_s:11.2f}{both:>18}")
        for number, each in enumerate(row.measured, 1):
            if each.waited > MOST_WAITED or each.others > MOST_OTHERS:
                text = f"      pass {number} disturbed: others worked {each.others:.0%} of its time, "
                lines.append(text + f"the server waited {each.waited:.1%} for cores that others had")
    return "\n".join(lines)


def main() -> int:
    """Print predictions beside measurements."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--loads", type=int, default=3)
    parser.add_argument("--duration-s", type=float, default=40.0)
    parser.add_argument("--output", type=Path, help="folder for the records; a new temporary one by default")
    options = parser.parse_args()
    folder = options.output or Path(tempfile.mkdtemp(prefix="live-proof-"))
    folder.mkdir(parents=True, exist_ok=True)
    with rig(folder / "server.log") as running:
        rows = proof(running, options.seed, Plan(loads=options.loads, duration_s=options.duration_s), folder)
    print(shown(rows))
    print(f"calibration, predictions and measurements: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
