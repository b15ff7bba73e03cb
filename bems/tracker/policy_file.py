"""The policy file: a policy with its dates, as JSON, so that reading it needs neither PyYAML nor holidays."""

from dataclasses import replace
from datetime import date
from typing import Literal

import msgspec
from msgspec import Struct

from bems.tracker.contract import STAGES
from bems.tracker.policy import (
    WEEKDAYS,
    OverrideSpec,
    Policy,
    Rule,
    StageRules,
    StageSpec,
    StagesSpec,
    WaitsFrom,
    Weekday,
    When,
    WhenSpec,
    assemble_policy,
)


class ExpandedPolicy(Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON document. `days_off` are all the dates off, public holidays too."""

    version: Literal[1]
    timezone: str
    weekend: tuple[Weekday, ...]
    days_off: tuple[date, ...]
    stages: StagesSpec
    waits_from: WaitsFrom = "decision"
    identity: bool = True


def dump_policy(policy: Policy) -> bytes:
    """A policy as JSON, the same bytes for equal policies."""
    stages = StagesSpec(**{stage: _describe(policy.stages[stage]) for stage in STAGES})
    weekend = tuple(WEEKDAYS[weekday] for weekday in sorted(policy.calendar.weekend))
    days_off = tuple(sorted(policy.calendar.days_off))
    expanded = ExpandedPolicy(
        1, policy.calendar.timezone, weekend, days_off, stages, policy.waits_from, policy.identity
    )
    return msgspec.json.encode(expanded)


def load_policy(document: bytes) -> Policy:
    """The policy that `dump_policy` wrote; ValueError for anything else."""
    try:
        expanded = msgspec.json.decode(document, type=ExpandedPolicy)
    except msgspec.DecodeError as fault:
        raise ValueError(f"not an expanded policy: {fault}") from None
    policy = assemble_policy(expanded.timezone, frozenset(expanded.days_off), expanded.weekend, expanded.stages)
    return replace(policy, waits_from=expanded.waits_from, identity=expanded.identity)


def _describe(rules: StageRules) -> StageSpec:
    def texts(rule: Rule) -> tuple[str, str, int, int]:
        return str(rule.deadline), str(rule.escalate_every), rule.critical_at, rule.give_up_at

    overrides = tuple(OverrideSpec(_describe_when(when), *texts(rule)) for when, rule in rules.overrides)
    return StageSpec(*texts(rules.rule), overrides=overrides)


def _describe_when(when: When) -> WhenSpec:
    return WhenSpec(
        vendor_tier=when.vendor_tier,
        vendor=when.vendor,
        currency=when.currency,
        amount_from=None if when.amount_from is None else format(when.amount_from, "f"),
        amount_to=None if when.amount_to is None else format(when.amount_to, "f"),
        terms_days_from=when.terms_days_from,
    )
