from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bems.tracker.policy import DEFAULT_POLICY, OverrideSpec, StageSpec, WhenSpec
from bems.tracker.policy_warnings import find_warnings
from tests.tracker.test_policy import any_facts, policy, whens

GOLD = {"vendor_tier": "gold"}


def warnings(*overrides: tuple[Mapping[str, object], Mapping[str, object]], **rule: int) -> list[str]:
    specs = tuple(OverrideSpec(WhenSpec(**when), **own) for when, own in overrides)  # type: ignore[arg-type]
    return find_warnings(policy(authorization=StageSpec(overrides=specs, **rule)))  # type: ignore[arg-type]


def test_the_default_policy_has_no_warnings() -> None:
    assert find_warnings(DEFAULT_POLICY) == []
    assert warnings((GOLD, {"deadline": "1bd"}), give_up_at=3, critical_at=3) == []


def test_giving_up_before_any_critical_alert_is_a_warning() -> None:
    problem = "give_up_at 2 is below critical_at 3: an invoice is parked before any alert of it is critical"
    assert warnings(give_up_at=2) == [f"authorization: {problem}"]
    assert warnings((GOLD, {"give_up_at": 2})) == [f"authorization, override 1: {problem}"]
    # An override that inherits these numbers has no warning of its own.
    assert warnings((GOLD, {"deadline": "1bd"}), give_up_at=2) == [f"authorization: {problem}"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (GOLD, GOLD),
        (GOLD, {**GOLD, "currency": "EUR"}),
        ({"currency": "EUR"}, {"currency": "EUR", "amount_from": 5}),
        ({"currency": "EUR", "amount_from": 5}, {"currency": "EUR", "amount_from": 5, "amount_to": 9}),
        ({"currency": "EUR", "amount_to": 9}, {"currency": "EUR", "amount_to": 9}),
        ({"terms_days_from": 30}, {"terms_days_from": 60, "vendor": "V"}),
    ],
)
def test_an_override_after_a_wider_one_is_a_warning(first: Mapping[str, object], second: Mapping[str, object]) -> None:
    assert warnings((first, {}), (second, {})) == [
        "authorization, override 2: override 1 matches all its invoices first: move it before that one, or leave it out"
    ]
    assert first == second or warnings((second, {}), (first, {})) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (GOLD, {"vendor_tier": "silver"}),
        (GOLD, {"currency": "EUR"}),
        ({"currency": "EUR", "amount_from": 5}, {"currency": "EUR"}),
        ({"currency": "EUR", "amount_from": 5}, {"currency": "USD", "amount_from": 6}),
        ({"terms_days_from": 30}, {"vendor": "V"}),
    ],
)
def test_an_override_that_matches_some_invoices_has_no_warning(
    first: Mapping[str, object], second: Mapping[str, object]
) -> None:
    assert warnings((first, {}), (second, {})) == []


@settings(derandomize=True, max_examples=300)
@given(whens, whens, st.lists(any_facts, min_size=1, max_size=9))
def test_an_override_with_a_warning_never_applies(first: WhenSpec, second: WhenSpec, invoices: list) -> None:  # type: ignore[type-arg]
    policy_of_both = policy(authorization=StageSpec(overrides=(OverrideSpec(first), OverrideSpec(second))))
    if find_warnings(policy_of_both):
        assert all(first.read().matches(facts) for facts in invoices if second.read().matches(facts))
