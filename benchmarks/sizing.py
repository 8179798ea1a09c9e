"""CPU time of sizing one pipeline by simulation on many devices: python -m benchmarks.sizing [SCENARIO] [--devices N].

The event engine is compiled and calibrations are read before the clock starts, as in a dashboard that is open.
"""

from __future__ import annotations

import argparse
import time

from capacity import catalogue, planner, simulation
from capacity.documents import catalogue as names
from capacity.fleet.served import Question


def main() -> None:
    """Size the scenario on GPUs of the catalogue and print the seconds of one core."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scenario", nargs="?", default="cross-encoder-rerank")
    parser.add_argument("--devices", type=int, default=20)
    parser.add_argument("--requests", type=int, default=20_000)
    given = parser.parse_args()
    scenario = catalogue.scenario(given.scenario)
    inputs = planner.inputs(scenario)
    gpus = [name for name in names("hardware_profiles") if catalogue.hardware(name).kind == "gpu"]
    usual = [name for name in scenario.hardware if name in gpus]
    devices = [*usual, *(name for name in gpus if name not in usual)][: given.devices]
    question = Question(requests=given.requests, band=False)
    simulation.simulated(scenario, inputs, question, devices[:1])
    started_s = time.process_time()
    options = simulation.simulated(scenario, inputs, question, devices)
    spent_s = time.process_time() - started_s
    sized = [option for option in options if not option.refused]
    trials = sum(option.trials for option in sized)
    print(f"{scenario.id}: {len(options)} devices, {len(sized)} of them sized by {trials} runs")
    print(f"{spent_s:.2f} CPU-seconds in all, {1e3 * spent_s / len(options):.0f} ms a device")


if __name__ == "__main__":
    main()
