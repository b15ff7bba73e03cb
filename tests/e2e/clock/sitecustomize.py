"""Clock of the functions in the emulator's workers.

It is ahead of the machine's clock by the number of nanoseconds in the file that BEMS_E2E_CLOCK names, so that a test
can skip three business days. The emulator itself and all other processes use the machine's clock.
"""

import os
import time

if "AWS_LAMBDA_FUNCTION_NAME" in os.environ and "BEMS_E2E_CLOCK" in os.environ:
    _machine_time_ns = time.time_ns

    def _time_ns() -> int:
        with open(os.environ["BEMS_E2E_CLOCK"]) as file:
            return _machine_time_ns() + int(file.read())

    time.time_ns = _time_ns
