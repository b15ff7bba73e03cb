"""The current policy and earlier ones over the API."""

from pathlib import Path
from typing import Any

import pytest

from bems.calendars import expand
from bems.tracker.config import read_policy
from bems.tracker.contract import Stage
from bems.tracker.instants import DAY, render
from bems.tracker.policy import DEFAULT_POLICY
from tests.embedded.api import calls
from tests.embedded.api.calls import Cell
from tests.tracker.samples import NOW, POLICY, plain_policy

TEXT = """
critical_amount_from: {USD: 12000, EUR: "10000.50"}
calendar: {country: HU, timezone: Europe/Budapest, days_off: [2026-11-24], days_on: [2026-12-25]}
stages:
  authorization:
    deadline: 5d
    overrides:
      - {when: {vendor_tier: gold, currency: EUR, amount_from: "10000"}, deadline: 1bd}
      - {when: {vendor: V-1}, critical_at: 1}
      - {when: {buyer: "1000", has_purchase_order: true}, escalate_every: 2bd}
    escalate: {every: 1bd, growth: 1.5}
    critical_at: 3
    give_up_at: 20
  reconciliation:
    deadline: 5bd
    escalate_every: 2bd
    critical_at: 3
    give_up_at: 20
    not_required:
      - {when: {has_purchase_order: false}}
"""


def default_rules(stage: Stage) -> dict[str, Any]:
    rules = DEFAULT_POLICY.stages[stage].rule
    return {
        "deadline": str(rules.deadline),
        "escalate_every": str(rules.escalate_every),
        "growth": int(rules.growth),
        "critical_at": rules.critical_at,
        "give_up_at": rules.give_up_at,
        "overrides": [],
    }


def test_the_policy_in_force_is_shown_with_all_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = expand(read_policy(TEXT, "sla.yaml"))
    monkeypatch.setattr(calls, "POLICY", policy)
    with Cell(tmp_path, policy_source="sla.yaml") as cell:
        found = cell.get("/policy")
        assert cell.ask("GET", "/policy", role="viewer").status == 200
    assert (found["digest"], found["source"]) == (policy.digest, "sla.yaml")
    assert (found["in_force_from"], found["in_force_until"]) == (render(NOW), None)
    calendar = found["calendar"]
    assert calendar["all_days_off"] == sorted(calendar["all_days_off"])
    assert {"2026-01-01", "2026-11-24"} <= {*calendar["all_days_off"]}
    assert "2026-12-25" not in calendar["all_days_off"]
    assert "2026-01-10" in calendar.pop("all_days_on")
    del calendar["all_days_off"]
    assert calendar == {
        "country": "HU",
        "subdivision": None,
        "timezone": "Europe/Budapest",
        "weekend": ["saturday", "sunday"],
        "days_off": ["2026-11-24"],
        "days_on": ["2026-12-25"],
    }
    rest = {"escalate_every": "2bd", "growth": 1, "critical_at": 3, "give_up_at": 20}
    growing = {**rest, "escalate_every": "1bd", "growth": 1.5}
    assert found["stages"] == {
        "ingestion": default_rules("ingestion"),
        "authorization": {
            "deadline": "5d",
            **growing,
            "overrides": [
                {
                    "deadline": "1bd",
                    **growing,
                    "when": {"vendor_tier": "gold", "currency": "EUR", "amount_from": "10000"},
                },
                {"deadline": "5d", **growing, "critical_at": 1, "when": {"vendor": "V-1"}},
                {
                    "deadline": "5d",
                    **rest,
                    "escalate_every": "2bd",
                    "growth": 1,
                    "when": {"buyer": "1000", "has_purchase_order": True},
                },
            ],
        },
        "reconciliation": {
            "deadline": "5bd",
            **rest,
            "overrides": [],
            "not_required": [{"when": {"has_purchase_order": False}}],
        },
        "posting": default_rules("posting"),
    }
    assert found["critical_amount_from"] == {"EUR": "10000.50", "USD": "12000"}


def test_policies_are_listed_and_found_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests, strict = [POLICY.digest], plain_policy("1h", "1h", 1, 2)
    with Cell(tmp_path, policy_source="a.yaml"):
        pass
    monkeypatch.setattr(calls, "POLICY", strict)
    monkeypatch.setattr(calls, "NOW", NOW + DAY)
    with Cell(tmp_path, policy_source="b.yaml") as cell:
        cell.keys["admin"] = cell.add_key("another", "admin")[1]
        listed = cell.get("/policies")
        assert listed["next_cursor"] is None
        digests = [strict.digest, POLICY.digest]
        assert listed["items"] == [
            {
                "digest": strict.digest,
                "source": "b.yaml",
                "in_force_from": render(NOW + DAY),
                "in_force_until": None,
            },
            {
                "digest": POLICY.digest,
                "source": "a.yaml",
                "in_force_from": render(NOW),
                "in_force_until": render(NOW + DAY),
            },
        ]
        first = cell.get("/policies?limit=1")
        second = cell.get(f"/policies?limit=1&cursor={first['next_cursor']}")
        assert [one["digest"] for page in (first, second) for one in page["items"]] == digests
        assert cell.get("/policy")["digest"] == strict.digest
        before = cell.get(f"/policy?at={render(NOW + DAY - 1)}")
        assert (before["digest"], before["in_force_until"]) == (POLICY.digest, render(NOW + DAY))
        assert cell.ask("GET", f"/policy?at={render(NOW - 1)}").status == 404
        assert cell.ask("GET", "/policy?at=yesterday").pointers == {"/at"}
        assert cell.ask("GET", "/policies?cursor=x").pointers == {"/cursor"}
