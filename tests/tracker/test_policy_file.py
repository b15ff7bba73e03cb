"""Tests of the policy file, which a cell's functions read instead of cells.yaml."""

import pickle
import subprocess
import sys
from datetime import date

import msgspec
import pytest
from hypothesis import given, settings

from bems.tracker.policy import DEFAULT_POLICY, CalendarSpec, OverrideSpec, Policy, StageSpec, WhenSpec
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
