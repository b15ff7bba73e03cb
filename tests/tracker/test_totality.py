"""Tests that decisions are total: every record and input, however unlikely, has a decision."""

from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import msgpack

from bems.tracker.actions import Action, SendTaskAnswer, StartExecution
from bems.tracker.commands import Acknowledge, Cancel, Command, Complete, Extend, Park, Revive
from bems.tracker.contract import (
    FAILURE_STATUS,
    STAGES,
    SUCCESS_STATUS,
    Event,
    Facts,
    PaymentTerms,
    Source,
    Stage,
    Vendor,
)
from bems.tracker.decisions import WaitRequest, on_command, on_dispute, on_event, on_sweep, on_timeout, on_wait
from bems.tracker.instants import DAY, EARLIEST, LATEST
from bems.tracker.policy import DEFAULT_POLICY, Policy
from bems.tracker.record import InvoiceRecord, Run, Wait
from bems.tracker.record_builder import Decision
from bems.tracker.status import WAITS_FOR, Outcome, status_of
from tests.tracker.samples import NOW, POLICY

instants = st.one_of(st.integers(NOW, NOW + 400 * DAY), st.integers(EARLIEST, LATEST))
stages = st.sampled_from(STAGES)
names = st.sampled_from(["a", "b", "command c"])
terms = st.builds(PaymentTerms, days=st.none() | st.integers(0, 3650), due_date=st.none() | st.dates())
facts = st.builds(
    Facts,
    amount=st.decimals(allow_nan=False, allow_infinity=False, min_value=Decimal(-(10**18)), max_value=Decimal(10**18)),
    currency=st.sampled_from(["EUR", "JPY"]),
    vendor=st.builds(Vendor, id=st.sampled_from(["V-1", "V-2"]), tier=st.sampled_from([None, "gold"])),
    source=st.just(Source("erp")),
    payment_terms=st.none() | terms,
)


@st.composite
def outcomes(draw: st.DrawFn) -> dict[Stage, Outcome]:
    drawn = draw(st.dictionaries(stages, st.tuples(st.booleans(), names, instants)))
    return {
        stage: Outcome((SUCCESS_STATUS if good else FAILURE_STATUS)[stage], name, at, at)
        for stage, (good, name, at) in drawn.items()
    }


runs = st.builds(
    Run,
    number=st.integers(0, 3),
    state=st.sampled_from(["none", "open", "closing"]),
    started_at=instants,
    token=st.none() | names,
    stage=st.none() | stages,
    stamp=st.tuples(instants, st.integers(0, 9)),
)
waits = st.builds(
    Wait,
    stage=stages,
    since=instants,
    deadline=instants,
    due=instants,
    step=st.integers(0, 30),
    acknowledged=st.integers(0, 3),
    ended_runs=st.integers(0, 3),
)
actions: st.SearchStrategy[Action] = st.one_of(
    st.builds(StartExecution, invoice_id=names, run=st.integers(1, 3), deadline_seconds=st.integers(1, 99)),
    st.builds(SendTaskAnswer, token=names, answer=st.sampled_from(["ok", "Parked"]), until=instants),
)
records = st.builds(
    InvoiceRecord,
    invoice_id=names,
    facts=facts,
    facts_version=st.tuples(instants, names),
    terms_version=st.none() | st.tuples(instants, names),
    version=st.integers(1, 5),
    outcomes=outcomes(),
    recent_event_ids=st.lists(st.tuples(names, names), max_size=3).map(tuple),
    run=runs,
    wait=st.none() | waits,
    mark=st.sampled_from([None, "parked", "dormant"]),
    reported_disputes=st.dictionaries(stages, names),
    pending=st.lists(actions, max_size=2).map(tuple),
    check_at=st.none() | instants,
    recorded_at=instants,
)


@st.composite
def events(draw: st.DrawFn) -> Event:
    stage = draw(stages)
    status = (SUCCESS_STATUS if draw(st.booleans()) else FAILURE_STATUS)[stage]
    return Event(stage, draw(names), draw(names), status, draw(instants), draw(instants), draw(facts), draw(names))


commands = st.builds(
    Command,
    id=names,
    invoice_id=names,
    operator=names,
    accepted_at=instants,
    verb=st.one_of(
        st.builds(Complete, stage=stages),
        st.builds(Extend, until=instants),
        st.sampled_from([Cancel(), Park(), Revive(), Acknowledge()]),
    ),
)
requests = st.builds(
    WaitRequest,
    run=st.integers(0, 4),
    stage=stages,
    token=names,
    stamp=st.tuples(instants, st.integers(0, 9)),
)

THOROUGH = settings(derandomize=True, max_examples=400, deadline=None)


def check(before: InvoiceRecord | None, decision: Decision[Any]) -> None:
    after = decision.record
    if after is None:
        assert before is None
        return
    assert decision.actions == after.pending
    if after is before:
        return
    assert after.version == (before.version if before else 0) + 1
    assert decision.transitions == after.changes
    assert msgpack.decode(msgpack.encode(after), type=InvoiceRecord) == after
    waits_for = WAITS_FOR[status_of(after.outcomes)]
    if before and after.outcomes == before.outcomes and after.run == before.run:
        return  # an answer to an old run leaves an unlikely record as it is
    if after.pending:
        assert after.check_at is not None
    if waits_for and after.mark != "parked":
        assert after.wait and after.wait.stage == waits_for
        assert after.check_at is not None
    else:
        assert after.wait is None


@given(records | st.none(), events(), instants, st.sampled_from([POLICY, DEFAULT_POLICY]))
@THOROUGH
def test_on_event(record: InvoiceRecord | None, event: Event, now: int, policy: Policy) -> None:
    check(record, on_event(record, event, policy, now))


@given(records | st.none(), requests, instants, st.sampled_from([POLICY, DEFAULT_POLICY]))
@THOROUGH
def test_on_wait(record: InvoiceRecord | None, request: WaitRequest, now: int, policy: Policy) -> None:
    check(record, on_wait(record, request, policy, now))


@given(records | st.none(), st.integers(0, 4), stages, instants, st.sampled_from([POLICY, DEFAULT_POLICY]))
@THOROUGH
def test_on_timeout(record: InvoiceRecord | None, run: int, stage: Stage, now: int, policy: Policy) -> None:
    decision = on_timeout(record, run, stage, policy, now)
    check(record, decision)
    assert 1 <= int(decision.answer.payload(now)["deadline_seconds"]) <= 30 * 86400


@given(records | st.none(), st.integers(0, 4), stages, instants, st.sampled_from([POLICY, DEFAULT_POLICY]))
@THOROUGH
def test_on_dispute(record: InvoiceRecord | None, run: int, stage: Stage, now: int, policy: Policy) -> None:
    check(record, on_dispute(record, run, stage, policy, now))


@given(records | st.none(), commands, instants, st.sampled_from([POLICY, DEFAULT_POLICY]))
@THOROUGH
def test_on_command(record: InvoiceRecord | None, command: Command, now: int, policy: Policy) -> None:
    check(record, on_command(record, command, policy, now))


@given(records | st.none(), instants, st.none() | st.integers(0, 4), st.sampled_from([POLICY, DEFAULT_POLICY]))
@THOROUGH
def test_on_sweep(record: InvoiceRecord | None, now: int, ended_run: int | None, policy: Policy) -> None:
    check(record, on_sweep(record, policy, now, ended_run))
