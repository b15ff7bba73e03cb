import pytest
from hypothesis import given
from hypothesis import strategies as st

from bems.embedded.api.access import SENDERS, Access
from bems.embedded.auth.keys import Key, Keys
from bems.embedded.auth.rate_limit import TokenBucket
from bems.tracker.cells import Limits, Rate, StageRates
from bems.tracker.responses import HttpResponse
from tests.tracker.samples import NOW


def test_a_bucket_starts_full_and_refills() -> None:
    bucket = TokenBucket(Rate(2, 3), 100.0)
    assert [bucket.acquire(100.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert bucket.acquire(100.25) == 0.25
    assert bucket.acquire(100.5) == 0
    assert bucket.acquire(100.5) == 0.5


def test_it_never_holds_more_than_its_burst() -> None:
    bucket = TokenBucket(Rate(1000, 2), 0.0)
    assert [bucket.acquire(1e9) for _ in range(3)] == [0, 0, 0.001]


def test_refunded_tokens_can_be_taken_again() -> None:
    bucket = TokenBucket(Rate(1, 1), 0.0)
    assert bucket.acquire(0.0) == 0
    bucket.refund()
    assert [bucket.acquire(0.0), bucket.acquire(0.0)] == [0, 1]


def test_a_batch_takes_one_token_per_event() -> None:
    bucket = TokenBucket(Rate(10, 100), 0.0)
    assert bucket.acquire(0.0) == 0
    assert bucket.acquire_batch(0.0, 60) == 0
    assert bucket.acquire(0.0) == 0
    assert bucket.acquire_batch(0.0, 60) == pytest.approx((60 - 39) / 10), "no token was taken"
    assert bucket.acquire_batch(0.0, 40) == 0
    assert bucket.acquire(0.0) == 0.1


def test_a_batch_larger_than_the_burst_needs_a_full_bucket_and_delays_later_requests() -> None:
    bucket = TokenBucket(Rate(10, 5), 0.0)
    assert bucket.acquire(0.0) == 0
    assert bucket.acquire_batch(0.0, 25) == 0
    assert bucket.acquire(0.0) == pytest.approx(2.1)
    assert bucket.acquire(2.2) == 0
    assert bucket.acquire_batch(2.2, 25) > 0


@given(
    st.integers(1, 1000),
    st.integers(1, 1000),
    st.lists(st.floats(0, 10, allow_nan=False), min_size=1, max_size=200),
)
def test_a_bucket_admits_its_rate_and_burst_and_returns_exact_waits(rate: int, burst: int, pauses: list[float]) -> None:
    bucket, now, let_through = TokenBucket(Rate(rate, burst), 0.0), 0.0, 0
    for pause in pauses:
        now += pause
        wait = bucket.acquire(now)
        let_through += wait == 0
        assert let_through <= burst + now * rate + 1e-6
        if wait:
            assert 0 < wait <= 1 / rate + 1e-9
            assert bucket.acquire(now + wait + 1e-6) == 0
            let_through, now = let_through + 1, now + wait + 1e-6


class FakeKeys(Keys):
    """Keys of two senders (`one`, `two`) and a viewer (`three`)."""

    def __init__(self) -> None:
        pass

    def verify(self, text: str) -> Key | None:
        role = {"one": "sender", "two": "sender", "three": "viewer"}.get(text)
        return Key(text, text, role, NOW, "x") if role else None  # type: ignore[arg-type]


def status(answer: Key | HttpResponse) -> tuple[int, str | None]:
    return (answer.status, answer.headers.get("retry-after")) if isinstance(answer, HttpResponse) else (200, None)


def test_each_key_and_each_stage_has_its_own_bucket() -> None:
    now = [0.0]
    stages = StageRates(*[Rate(1, 2)] * 4)
    access = Access(FakeKeys(), Limits(Rate(10, 3), stages), lambda: now[0])
    assert [status(access.authorize(b"one", SENDERS, "ingestion")) for _ in range(3)] == [
        (200, None),
        (200, None),
        (429, "1"),
    ]
    assert status(access.authorize(b"one", SENDERS, "posting")) == (200, None), (
        "a request refused by the stage's bucket consumes no token of the key"
    )
    assert status(access.authorize(b"one", SENDERS, "posting")) == (429, "1")
    assert status(access.authorize(b"two", SENDERS, "ingestion")) == (200, None)
    now[0] = 1.0
    assert status(access.authorize(b"one", SENDERS, "ingestion")) == (200, None)


@pytest.mark.parametrize("text", [None, b"", b"nobody", b"three", b"\xff"])
def test_unauthorized_requests_consume_no_tokens(text: bytes | None) -> None:
    access = Access(FakeKeys(), Limits(Rate(1, 1)), lambda: 0.0)
    assert {status(access.authorize(text, SENDERS, "ingestion")) for _ in range(5)} == {(403, None)}
    assert status(access.authorize(b"one", SENDERS, "ingestion")) == (200, None)
