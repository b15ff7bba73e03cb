"""The real definition has the same history on our interpreter and on moto's, for every path and for random scripts."""

from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.engine.definitions import lifecycle
from tests.engine.parity import (
    Action,
    Advance,
    Answer,
    EngineRunner,
    Fail,
    MotoRunner,
    Outcome,
    Script,
    Succeed,
    run_both,
)

DEFINITION = lifecycle()
# No jitter, because each interpreter draws its own delays.
for state in DEFINITION["States"].values():
    for retrier in state.get("Retry", ()):
        retrier["JitterStrategy"] = "NONE"
INPUT = {"invoice_id": "INV/2026/000123", "run": 1, "deadline_seconds": 100}
BROKEN = Answer(error="Broken")
UNAVAILABLE = Answer(error="Unavailable")
HANGS = Answer(after=10**9)
REGISTERED = Answer(None)
OUTAGE_SECONDS = 126 + 30 * 120
"""Duration of 36 retries in seconds: 2, 4, ... 64, then 120 each."""


def wait_on(seconds: int = 50) -> Answer:
    return Answer({"deadline_seconds": seconds, "next": "Await"})


def end(following: str) -> Answer:
    return Answer({"deadline_seconds": 1, "next": following})


def done(seconds: int = 100) -> Succeed:
    return Succeed({"deadline_seconds": seconds})


def script(
    actions: tuple[Action, ...],
    escalations: tuple[Answer, ...] = (wait_on(),),
    registrations: tuple[Answer, ...] = (REGISTERED,),
) -> Script:
    functions = {"Escalate": escalations, "RegisterWait": registrations}
    return Script(DEFINITION, INPUT, actions=actions, functions=functions)


LATE = Advance(101)

# By name: the last state entered, and the script.
PATHS: dict[str, tuple[str, Script]] = {
    "happy": ("Posted", script((Advance(10), done(), Advance(10), done(), Advance(10), done()))),
    "happy, at once": ("Posted", script((done(), done(), done()))),
    "still waiting": ("AwaitReconciliation", script((done(), Advance(99)))),
    "authorization late, then there": ("Posted", script((LATE, done(), done(), done()))),
    "authorization late three times": (
        "AwaitReconciliation",
        script((LATE, Advance(50), Advance(20), done()), (wait_on(), wait_on(20), wait_on())),
    ),
    "authorization given up": ("Parked", script((Advance(500),), (wait_on(), wait_on(), end("Parked")))),
    "authorization late, run replaced": ("Superseded", script((LATE,), (end("Superseded"),))),
    "reconciliation late": ("AwaitPosting", script((done(), LATE, done()))),
    "reconciliation late twice": ("AwaitPosting", script((done(), LATE, Advance(50), done()))),
    "reconciliation given up": ("Parked", script((done(), LATE), (end("Parked"),))),
    "reconciliation late, run replaced": ("Superseded", script((done(), LATE), (end("Superseded"),))),
    "posting late": ("Posted", script((done(), done(), LATE, done()))),
    "posting late twice": ("Posted", script((done(), done(), LATE, Advance(50), done()))),
    "posting given up": ("Parked", script((done(), done(), LATE), (end("Parked"),))),
    "posting late, run replaced": ("Superseded", script((done(), done(), LATE), (end("Superseded"),))),
    "disputed while awaiting reconciliation": (
        "Posted",
        script((done(), Fail("Mismatched"), Advance(20), done(), done())),
    ),
    "disputed, then late": ("AwaitReconciliation", script((done(), Fail("Mismatched"), Advance(50)))),
    "disputed, then given up": (
        "Parked",
        script((done(), Fail("Mismatched"), Advance(50)), (wait_on(), end("Parked"))),
    ),
    "disputed while awaiting posting": ("Posted", script((done(), done(), Fail("Mismatched"), done(), done()))),
    "disputed twice": ("AwaitPosting", script((done(), Fail("Mismatched"), Fail("Mismatched"), done()))),
    "posting failed": ("Posted", script((done(), done(), Fail("PostingFailed"), Advance(10), done()))),
    "posting failed, then given up": (
        "Parked",
        script((done(), done(), Fail("PostingFailed"), Advance(50)), (wait_on(), end("Parked"))),
    ),
    "posting failed, then disputed": (
        "AwaitPosting",
        script((done(), done(), Fail("PostingFailed"), Fail("Mismatched"), done())),
    ),
    **{
        f"{ending}, {stages} stages done": (ending, script((done(),) * stages + (Fail(ending),)))
        for ending in ("Rejected", "Cancelled", "Parked", "Superseded")
        for stages in range(3)
    },
    "an answer that no catcher knows": ("AwaitAuthorization", script((Fail("Surprise"),))),
    "a mismatch before its stage": ("AwaitAuthorization", script((Fail("Mismatched"),))),
    "Escalate fails": ("AuthorizationStuck", script((LATE,), (BROKEN,))),
    "Escalate hangs, once": ("Posted", script((LATE, Advance(62), done(), done(), done()), (HANGS, wait_on()))),
    "Escalate is unavailable for an hour": (
        "AwaitReconciliation",
        script((LATE, Advance(OUTAGE_SECONDS), done()), (UNAVAILABLE,) * 36 + (wait_on(),)),
    ),
    "a dispute's Escalate is unavailable": (
        "AwaitPosting",
        script((done(), Fail("Mismatched"), Advance(6), done()), (UNAVAILABLE, UNAVAILABLE, wait_on())),
    ),
    "RegisterWait is unavailable for an hour": (
        "AwaitReconciliation",
        script((Advance(OUTAGE_SECONDS), done()), registrations=(UNAVAILABLE,) * 36 + (REGISTERED,)),
    ),
    "RegisterWait runs out of time": (
        "AwaitReconciliation",
        script((Advance(2), done()), registrations=(Answer(error="Sandbox.Timedout"), REGISTERED)),
    ),
    "RegisterWait never comes back": (
        "AwaitAuthorization",
        script((Advance(126 + 84 * 120),), registrations=(UNAVAILABLE,)),
    ),
    "RegisterWait fails": ("AwaitAuthorization", script((), registrations=(BROKEN,))),
    "RegisterWait fails the second time": (
        "AwaitReconciliation",
        script((done(),), registrations=(REGISTERED, BROKEN)),
    ),
}


@pytest.mark.parametrize("name", PATHS)
def test_history_is_the_same(moto: MotoRunner, name: str) -> None:
    last_state, steps = PATHS[name]
    expected, actual = run_both(moto, steps)
    assert actual.history == expected.history
    assert (actual.status, actual.output, actual.rejected) == (expected.status, expected.output, expected.rejected)
    assert _entered(actual)[-1] == last_state


def test_every_state_is_entered() -> None:
    entered: set[str] = set()
    for _, steps in PATHS.values():
        entered.update(_entered(EngineRunner(datetime(2026, 1, 1, tzinfo=UTC)).run(steps)))
    assert entered == set(DEFINITION["States"])


def _entered(outcome: Outcome) -> list[str]:
    return [
        event["stateEnteredEventDetails"]["name"] for event in outcome.history if "stateEnteredEventDetails" in event
    ]


REGISTRATIONS = st.lists(st.sampled_from([*[REGISTERED] * 9, BROKEN]), min_size=1, max_size=8)
ESCALATIONS = st.lists(
    st.sampled_from([wait_on(), wait_on(), wait_on(7), end("Parked"), end("Superseded"), BROKEN]),
    min_size=1,
    max_size=6,
)
ACTIONS: st.SearchStrategy[Action] = st.one_of(
    st.sampled_from([1, 7, 20, 51, 101, 500]).map(Advance),
    st.sampled_from([30, 100, 3600]).map(done),
    st.sampled_from([10, 3600]).map(done),
    st.sampled_from(["Rejected", "Cancelled", "Parked", "Superseded", "Mismatched", "PostingFailed"]).map(Fail),
)


def test_random_scripts_are_the_same(moto: MotoRunner) -> None:
    @settings(
        max_examples=100,
        phases=[Phase.generate],
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(REGISTRATIONS, ESCALATIONS, st.lists(ACTIONS, min_size=1, max_size=12))
    def check(registrations: list[Answer], escalations: list[Answer], actions: list[Action]) -> None:
        expected, actual = run_both(moto, script(tuple(actions), tuple(escalations), tuple(registrations)))
        assert actual.history == expected.history
        assert actual.status == expected.status

    check()
