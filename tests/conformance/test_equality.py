"""Both runtimes have equal results for the same input: records, rows, alerts, executions and answers.

The clocks of both stand still between two inputs, so every time and id is equal too. Only the answers to repeats and
conflicts differ (`as_answered_on_aws`).
"""

from __future__ import annotations

import json
from datetime import date
from random import Random
from typing import Any, NamedTuple

import msgspec
import pytest

from bems.generator.event_log import LogProfile, render_line, scenarios
from bems.tracker.commands import Complete, Extend
from bems.tracker.contract import Stage
from bems.tracker.instants import DAY, SECOND, Instant, render
from bems.tracker.record import InvoiceRecord
from tests.aws.cloud import event_body
from tests.conformance.aws_runtime import AwsRuntime
from tests.conformance.embedded_runtime import EmbeddedRuntime
from tests.conformance.rows import assert_chain
from tests.conformance.runtime import CommandResult, ExecutionSummary, Reply, Runtime, as_answered_on_aws
from tests.faults.scenario import draw_emissions, draw_verb
from tests.tracker.samples import NOW

MIXED = LogProfile(
    credit_note=0.1,
    early=0.1,
    orphaned=0.1,
    stuck=0.1,
    cancelled=0.08,
    rejected=0.1,
    withdrawn=0.04,
    disputed=0.2,
    failed=0.1,
    late=0.08,
    duplicated=0.1,
    conflicting=0.05,
    malformed=0.05,
)
"""Many times the faults of an ordinary company, so that few invoices have all of them."""

END = 60 * DAY
"""Time after the last input, in which every wait ends."""


class Post(NamedTuple):
    """A request with events."""

    stage: Stage
    body: bytes
    is_batch: bool = False


Script = list[tuple[Instant, Post | dict[str, Any]]]
"""Requests and commands, each with its time."""


class Outcome(NamedTuple):
    """All that a script leads to. Rows are in order; alerts are sorted, because those of an instant have no order."""

    replies: list[Reply]
    results: list[CommandResult]
    records: dict[str, Any]
    executions: dict[str, list[ExecutionSummary]]
    rows: dict[str, list[dict[str, str]]]
    alerts: list[dict[str, Any]]
    conflicts: list[str]


def run_script(runtime: Runtime, script: Script) -> Outcome:
    replies, results = [], []
    for at, what in script:
        if at > runtime.now:
            runtime.pass_time(at - runtime.now)
        if isinstance(what, Post):
            reply = runtime.post(what.stage, what.body, is_batch=what.is_batch)
            replies.append(as_answered_on_aws(reply, what.body))
        else:
            results.append(runtime.apply_command(what))
    runtime.pass_time(END)
    rows = runtime.all_rows()
    ids = sorted({row["invoice_id"] for row in rows})
    return Outcome(
        replies,
        results,
        {id: to_json(runtime.record(id)) for id in ids},
        {id: runtime.executions(id) for id in ids},
        {id: [row for row in rows if row["invoice_id"] == id] for id in ids},
        sorted(runtime.messages(), key=lambda alert: (alert["raised_at"], alert["id"])),
        runtime.conflicts(),
    )


def to_json(record: InvoiceRecord) -> Any:
    return json.loads(msgspec.json.encode(record))


def assert_equal(embedded: Outcome, aws: Outcome) -> None:
    """Compare part by part, and invoice by invoice, so that a failure names the first difference."""
    assert embedded.rows.keys() == aws.rows.keys()
    for id, rows in embedded.rows.items():
        for one, other in zip(rows, aws.rows[id], strict=False):
            assert one == other
        assert len(rows) == len(aws.rows[id]), id
        assert embedded.records[id] == aws.records[id]
        assert embedded.executions[id] == aws.executions[id]
    assert embedded.alerts == aws.alerts
    assert embedded.replies == aws.replies
    assert embedded.results == aws.results
    assert sorted(embedded.conflicts) == sorted(aws.conflicts)


def draw_commands(random: Random, script: Script, ids: list[str]) -> Script:
    """Draw operators' commands, about one for four requests."""
    drawn: Script = []
    for at, _ in random.sample(script, len(script) // 4):
        verb = draw_verb(random, at)
        body = {
            "command_id": f"c{len(drawn)}",
            "invoice_id": random.choice(ids),
            "verb": str(verb.__struct_config__.tag),
            "note": "why",
        }
        if isinstance(verb, Complete):
            body["stage"] = verb.stage
        elif isinstance(verb, Extend):
            body["until"] = render(verb.until)
        drawn.append((at + random.randrange(DAY), body))
    return drawn


def mixed_script(seed: int = 9) -> Script:
    """Draw a month with all faults, sent event by event and in batches, with operators' commands."""
    random = Random(seed)
    drawn = list(scenarios(24, seed=seed, start=date(2026, 3, 2), days=20, profile=MIXED))
    script: Script = []
    for plan in drawn:
        for sending in plan.emissions:
            line = render_line(plan, sending)
            body = line[line.find(b'"event":') + len(b'"event":') : -2]
            if random.random() < 0.1:
                body = body.replace(b"{", b'{"imported":true,', 1)
            is_batch = random.random() < 0.3
            content = b'{"events":[%s, %s, 7]}' % (body, body) if is_batch else body
            script.append((sending.arrives * SECOND, Post(sending.stage, content, is_batch)))
    for plan in random.sample(drawn, 3):
        foreign = event_body(plan.invoice_id, "approved", f"foreign-{plan.number}", vendor={"id": "FOREIGN"})
        script.append((NOW + random.randrange(20 * DAY), Post("authorization", json.dumps(foreign).encode())))
    script += draw_commands(random, script, [plan.invoice_id for plan in drawn])
    return sorted(script, key=lambda entry: entry[0])


def drawn_script(seed: int) -> Script:
    """The events of a scenario of the fault tests, without its faults, and operators' commands."""
    random = Random(seed)
    emissions = draw_emissions(random)
    script: Script = [(one.at, Post(one.stage, one.body)) for one in emissions]
    script += draw_commands(random, script, sorted({one.invoice_id for one in emissions}))
    return sorted(script, key=lambda entry: entry[0])


def test_a_long_mixed_script_has_equal_results(embedded: EmbeddedRuntime, aws: AwsRuntime) -> None:
    script = mixed_script()
    found = run_script(embedded, script)
    assert_equal(found, run_script(aws, script))
    for rows in found.rows.values():
        assert_chain(rows)
    assert {row["kind"] for rows in found.rows.values() for row in rows} == {
        "event",
        "alert",
        "park",
        "revive",
        "command",
    }
    kinds = {"stuck", "dispute", "failed", "identity", "contradiction", "resolved"}
    assert {alert["kind"] for alert in found.alerts} == kinds
    assert {result.result for result in found.results} == {"accepted", "refused"}
    assert {reply.status for reply in found.replies} == {202, 207, 400}
    assert found.conflicts


@pytest.mark.parametrize("seed", range(4))
def test_drawn_scripts_have_equal_results(embedded: EmbeddedRuntime, aws: AwsRuntime, seed: int) -> None:
    script = drawn_script(seed)
    assert_equal(run_script(embedded, script), run_script(aws, script))
