"""Tests of alert messages: what people read."""

import pytest
from msgspec import structs

from bems.tracker.actions import Alert
from bems.tracker.alert_messages import headline, json_body, summary_line, text_body, urgency
from bems.tracker.contract import Stage
from tests.tracker.samples import DAY, FACTS, NOW

OPEN: tuple[Stage, ...] = ("authorization", "reconciliation", "posting")
STUCK = Alert(
    "a1", "INV-1", "stuck", "authorization", "critical", 3, NOW, NOW + DAY, NOW + DAY, FACTS, open_stages=OPEN
)
DISPUTED = {"reconciliation": "mismatched"}
BY_HAND = "an event says rejected, but ann recorded authorization as approved by hand on 2026-03-02"

SAMPLES: list[tuple[Alert, str, str]] = [
    (STUCK, "critical", "INV-1 has waited for authorization since 2026-03-02 (alert 3)"),
    (
        structs.replace(STUCK, last=True),
        "critical",
        "INV-1 has waited for authorization since 2026-03-02 (alert 3, the last one: it is parked)",
    ),
    (
        structs.replace(STUCK, negative_outcomes=DISPUTED),
        "critical",
        "INV-1 has waited for authorization since 2026-03-02 (alert 3); its reconciliation is mismatched",
    ),
    (
        structs.replace(STUCK, negative_outcomes={"posting": "failed", **DISPUTED}),
        "critical",
        "INV-1 has waited for authorization since 2026-03-02 (alert 3); its reconciliation is mismatched"
        " and its posting is failed",
    ),
    (
        structs.replace(STUCK, stage="reconciliation", event_id="e1", negative_outcomes=DISPUTED),
        "critical",
        "INV-1 has waited for reconciliation since 2026-03-02, which found a mismatch (alert 3)",
    ),
    (
        structs.replace(STUCK, kind="dispute", stage="reconciliation", severity="warning", step=0),
        "warning",
        "INV-1 is disputed: its reconciliation found a mismatch",
    ),
    (structs.replace(STUCK, kind="failed", severity="warning", step=0), "warning", "INV-1 could not be posted"),
    (
        structs.replace(STUCK, kind="identity", severity="warning", step=0, detail="vendors A and B both use this id"),
        "warning",
        "INV-1 may be two invoices under one id: vendors A and B both use this id",
    ),
    (
        structs.replace(STUCK, kind="contradiction", severity="warning", step=0, detail=BY_HAND),
        "warning",
        f"INV-1 has contradictory outcomes: {BY_HAND}",
    ),
    (
        structs.replace(STUCK, kind="resolved", detail="authorization is approved"),
        "resolved",
        "earlier alerts of INV-1 are resolved: authorization is approved",
    ),
]


@pytest.mark.parametrize(("alert", "first_word", "line"), SAMPLES)
def test_an_alert_has_a_headline_and_a_first_word(alert: Alert, first_word: str, line: str) -> None:
    assert (headline(alert), urgency(alert)) == (line, first_word)
    assert summary_line(alert, "eu") == f"{first_word}: {line}, 1250.00 EUR of V-42, cell eu"
    assert text_body(alert, "eu").startswith(f"{line}\n\nInvoice:       INV-1\n")
    assert json_body(alert, "eu")["severity"] == alert.severity


def test_the_text_names_open_stages_and_bad_outcomes_only_if_there_are_some() -> None:
    text = text_body(structs.replace(STUCK, negative_outcomes=DISPUTED), "eu")
    assert "Open stages:   authorization, reconciliation, posting\nBad outcomes:  reconciliation mismatched\n" in text
    nothing = text_body(structs.replace(STUCK, open_stages=()), "eu")
    assert "Open" not in nothing and "Bad" not in nothing


def test_the_text_of_a_resolution_says_when_and_nothing_that_was_due() -> None:
    text = text_body(structs.replace(STUCK, kind="resolved", detail="authorization is approved"), "eu")
    assert "\nResolved:      2026-03-03T09:00:00Z\n" in text
    assert "Raised" not in text and "Was due" not in text


def test_all_messages_of_a_wait_have_one_incident() -> None:
    later = structs.replace(STUCK, id="a2", step=4, raised_at=NOW + 2 * DAY, severity="warning")
    resolved = structs.replace(STUCK, id="a3", kind="resolved")
    assert {json_body(alert, "eu")["incident"] for alert in (STUCK, later, resolved)} == {STUCK.incident}
    assert structs.replace(STUCK, waiting_since=NOW + 1).incident != STUCK.incident
