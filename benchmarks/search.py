"""CPU time and memory of a search over a million configurations: python -m benchmarks.search [SCENARIO] [--replicas N].

Every device with a price × two dtypes × four ways of buying × sharing × batch × replicas. Calibrations and prices are
read before the clock starts, as in a dashboard that is open.
"""

from __future__ import annotations

import argparse
import resource
import time

from capacity import catalogue, documents, planner, search
from capacity.search.engines import run
from capacity.spec.scenario import Scenario
from capacity.spec.space import Space

MIB = 1024


def main() -> None:
    """Search and print what that took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scenario", nargs="?", default="cross-encoder-rerank")
    parser.add_argument("--replicas", type=int, default=1024)
    asked = parser.parse_args()
    document = catalogue.scenario_document(asked.scenario)
    scenario = documents.validated(document, Scenario)
    space = Space(
        hardware=("all",), dtypes=("fp16", "int8"), terms=("on-demand", "spot", "1-year", "3-year"),
        most_replicas=asked.replicas,
    )  # fmt: skip
    given = planner.inputs(scenario, document=document)
    devices = search.devices((), space, scenario, given)
    planner.option(scenario, planner.profile(devices[0], given), given)
    before, started_s, wall_s = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time(), time.time()
    variants, refused = search.variants(document, given, space, devices)
    tried = run(variants, space, given)
    tried_s = time.process_time() - started_s
    found = search.found(scenario, space, given, tried, refused)
    spent_s, wall_s = time.process_time() - started_s, time.time() - wall_s
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{found.configurations:,} configurations of {found.variants} variants, {found.feasible:,} feasible")
    print(f"{spent_s:.1f} CPU-seconds ({tried_s:.1f} of them trying), {wall_s:.1f} s by the clock")
    print(f"{most / MIB:.0f} MiB at most, {before / MIB:.0f} MiB before")


if __name__ == "__main__":
    main()
