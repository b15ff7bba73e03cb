"""Calibration: measures the current speed of this machine's processor with a fixed loop, next to every figure.

The processor of a virtual machine is shared, so a core-second may do half the work of a core-second a minute later. The
loop never changes: figures of two runs are comparable after division by their calibrations.
"""

import multiprocessing
import os
import time

LOOPS = 1_000_000
WARM_UP_SECONDS = 0.3
"""Duration of the warm-up: an idle processor starts slowly, and the measured process may still be finishing work."""


def calibrate() -> float:
    """Return the CPU milliseconds of a fixed loop of pure Python: the best of five runs after a warm-up."""
    warm_at = time.monotonic() + WARM_UP_SECONDS
    while time.monotonic() < warm_at:
        _loop()
    return min(_loop() for _ in range(5))


def calibrate_beside_others() -> float:
    """Return the same while one process per other processor runs the loop too."""
    others = [multiprocessing.Process(target=_busy, daemon=True) for _ in range((os.cpu_count() or 1) - 1)]
    for other in others:
        other.start()
    try:
        return calibrate()
    finally:
        for other in others:
            other.kill()
            other.join()


def _busy() -> None:
    while True:
        _loop()


def _loop() -> float:
    started = time.process_time()
    total = 0
    for number in range(LOOPS):
        total += number
    return (time.process_time() - started) * 1000
