"""Deterministic simulation of a whole cell in one thread, with a virtual clock, disk and network.

A seed determines a scenario completely. To run one again and print what happens:

    python -m tests.faults.simulation --seed 7 --verbose

`invariants` describes what must hold; `fault_injector`, `disk`, `network` and `receiver` what goes wrong; `environment`
runs it all.
"""

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from threading import Condition
from types import SimpleNamespace
from unittest.mock import patch

import apsw

from bems.embedded import writer
from bems.embedded.alerting import dispatcher
from bems.tracker.instants import SECOND, render
from tests.faults.environment import Environment
from tests.faults.invariants import InvariantViolated


def run_scenario(seed: int, folder: Path, print_line: Callable[[str], None] | None = None) -> Environment:
    """Run the scenario of a seed. Raises InvariantViolated, whose message has the seed and the step.

    `print_line` receives each line of the trace.
    """
    logging.disable(logging.CRITICAL)
    apsw.randomness(0)
    environment = Environment(seed, folder, print_line)
    monotonic = SimpleNamespace(monotonic=lambda: environment.clock.true / SECOND)
    threads = SimpleNamespace(Thread=environment.start_thread, Condition=Condition)
    try:
        with (
            patch.object(writer, "time", monotonic),
            patch.object(dispatcher, "threading", threads),
            patch.object(sys, "excepthook", environment.disk.handle_exception),
            patch.object(sys, "unraisablehook", environment.disk.unraisable_hook),
        ):
            environment.run()
    except Exception as error:
        where = f"seed {seed}, step {environment.steps} at {render(environment.clock.true)}"
        raise InvariantViolated(f"{where}: {type(error).__name__}: {error}") from error
    finally:
        environment.close()
        logging.disable(logging.NOTSET)
    return environment


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the scenarios of some seeds.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    broken = 0
    for seed in range(options.seed, options.seed + options.count):
        began = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            try:
                environment = run_scenario(seed, Path(folder), print if options.verbose else None)
            except InvariantViolated as error:
                broken += 1
                print(error)
                if options.verbose:
                    raise
                continue
        if options.count <= 20:
            counts = f"{environment.steps} steps, {environment.starts} starts, {environment.crashes} crashes"
            seconds = time.process_time() - began
            failures = f"{environment.disk.failures} disk failures"
            print(f"seed {seed}: {counts}, {failures}, {seconds:.3f} s, {environment.digest.hexdigest()}")
    return broken > 0


if __name__ == "__main__":
    sys.exit(main())
