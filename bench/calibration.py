"""The calibration loop: what this machine's processor is worth at the moment, beside every figure.

A virtual machine's processor is shared, and a core-second of one minute may do half the work of one of the next. The
loop is always the same, so figures of two runs can be compared after they were divided by it.
"""

import multiprocessing
import os
import time

LOOPS = 1_000_000
WARM_UP_SECONDS = 0.3
"""Seconds: a processor that was idle begins slowly, and what was measured may still be tidying up."""


def calibrate() -> float:
    """CPU milliseconds that a fixed loop of pure Python takes now; the best of five, once it is warm."""
    warm = time.monotonic() + WARM_UP_SECONDS
    while time.monotonic() < warm:
        _loop()
    return min(_loop() for _ in range(5))


def calibrate_beside_others() -> float:
    """The same while all other processors are as busy, in processes of their own."""
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
    begun = time.process_time()
    total = 0
    for number in range(LOOPS):
        total += number
    return (time.process_time() - begun) * 1000
