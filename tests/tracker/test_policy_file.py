"""Tests of the policy file, which a cell's functions read instead of cells.yaml."""

import pickle
import subprocess
import sys
from datetime import date
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings

from bems.tracker.policy import (
    DEFAULT_POLICY,
    CalendarSpec,
    OverrideSpec,
    Policy,
    PolicySpec,
    ReconciliationSpec,
    StageSpec,
    StagesSpec,
    WhenSpec,
    build_policy,
)
from bems.tracker.policy_file import policy_from_json, policy_to_json
from tests.tracker.test_policy import policies, policy


def test_a_policy_round_trips_as_json() -> None:
    when = WhenSpec(vendor_tier="gold", vendor="V", currency="EUR", amount_from="-1E+3", amount_to=7, terms_days_from=3)
    own = policy(
        days_on=frozenset({date(2026, 11, 28)}),
        ingestion=StageSpec(deadline="due", overrides=(OverrideSpec(when, deadline="due-12h"),)),
        posting=StageSpec(escalate_every="90m", critical_at=1, give_up_at=1),
    )
    document = policy_to_json(own)
    assert policy_from_json(document) == own
    assert policy_from_json(document).digest == own.digest
    assert policy_from_json(document).calendar_spec == own.calendar_spec == CalendarSpec("NL", "Europe/Amsterdam")
    assert policy_to_json(policy_from_json(document)) == document
    assert b'"amount_from":"-1000"' in document
    assert b'"days_off":["2026-12-25","2027-01-01"]' in document
    assert b'"days_on":["2026-11-28"]' in document
    assert policy_from_json(policy_to_json(DEFAULT_POLICY)) == DEFAULT_POLICY
    assert pickle.loads(pickle.dumps(own)) == own
    assert own != DEFAULT_POLICY


def first_version(**settings: Any) -> Policy:
    """Build a policy with every key of version 0.1.0, and none of later ones."""
    gold = WhenSpec(vendor_tier="gold", currency="EUR", amount_from="10000")
    slow = WhenSpec(vendor="V-1", terms_days_from=60)
    stages = StagesSpec(
        StageSpec("10bd", "5bd", 3, 6, ()),
        StageSpec("3bd", "1bd", 3, 20, (OverrideSpec(gold, "1bd"), OverrideSpec(slow, give_up_at=5))),
        ReconciliationSpec("5bd", "12h", 3, 20, ()),
        StageSpec("due-3bd", "1bd", 2, 20, ()),
    )
    return build_policy(PolicySpec(stages=stages, critical_amount_from={}, **settings), frozenset())


@pytest.mark.parametrize(
    ("settings", "digest"),
    [
        ({}, "8e4d2043970c0f0a"),
        ({"waits_from": "occurrence"}, "cdfd66364238807e"),
        ({"identity": "off"}, "dd1c32a75eea83ab"),
    ],
)
def test_a_policy_of_the_first_version_keeps_its_digest_and_its_keys(settings: dict[str, Any], digest: str) -> None:
    """The digest is stored with every transition, and an older program reads the document after a roll-back."""
    own = first_version(**settings)
    assert own.digest == digest
    later = (b'escalate"', b"growth", b"critical_amount_from", b"not_required", b"buyer", b"has_purchase_order")
    assert not any(key in policy_to_json(own) for key in later)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"timezone": "Mars"},
        {"weekend": ["someday"]},
        {"days_off": ["2026-13-01"]},
        {"stages": {"ingestion": {"deadline": "soon"}}},
        {"extra": 1},
    ],
)
def test_an_invalid_document_is_refused(change: dict[str, object]) -> None:
    document = msgspec.json.decode(policy_to_json(DEFAULT_POLICY), type=dict[str, object])
    with pytest.raises(ValueError, match=r"."):
        policy_from_json(msgspec.json.encode({**document, **change}))
    with pytest.raises(ValueError, match="not an expanded policy"):
        policy_from_json(b"{")


@settings(derandomize=True, max_examples=100)
@given(policies)
def test_every_policy_round_trips_as_json(own: Policy) -> None:
    assert policy_from_json(policy_to_json(own)) == own
    assert policy_from_json(policy_to_json(own)).digest == own.digest


def test_importing_the_module_loads_neither_yaml_nor_holidays() -> None:
    code = "import sys, bems.tracker.policy_file; print([n for n in ('yaml', 'holidays') if n in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
