import pytest

from bems.engine.machine import Retrier
from bems.engine.retries import retry_delay


def retrier(**fields: float | bool) -> Retrier:
    values = {"interval": 2, "max_attempts": 6, "backoff_rate": 2.0, "max_delay": 60, "jitter": False, **fields}
    return Retrier(error_equals=frozenset({"E"}), **values)  # type: ignore[arg-type]


def test_delay_doubles_up_to_its_maximum() -> None:
    delays = [retry_delay(retrier(), attempt, 0, 0) for attempt in range(7)]
    assert delays == [2_000_000, 4_000_000, 8_000_000, 16_000_000, 32_000_000, 60_000_000, 60_000_000]


@pytest.mark.parametrize("attempt", [1_000, 10**6])
def test_delay_stays_finite(attempt: int) -> None:
    assert retry_delay(retrier(max_delay=31_622_400), attempt, 0, 0) == 31_622_400 * 1_000_000


def test_jitter_differs_by_seed_and_event() -> None:
    full = retrier(jitter=True, interval=60)
    delays = {retry_delay(full, 0, seed, event) for seed in range(10) for event in range(10)}
    assert len(delays) == 100
    assert all(0 <= delay <= 60_000_000 for delay in delays)
    assert retry_delay(full, 0, 3, 7) == retry_delay(full, 0, 3, 7)


def test_jitter_does_not_change_between_versions() -> None:
    assert retry_delay(retrier(jitter=True, interval=60), 0, 1, 5) == 22_629_981
