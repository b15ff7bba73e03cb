"""Suggestion of a policy from a log: deadlines that a share of its invoices kept."""

from collections.abc import Mapping
from math import ceil
from typing import Any, NamedTuple

from msgspec import structs

from bems.embedded.replay.report import Report
from bems.tracker.contract import STAGES, Stage
from bems.tracker.instants import DAY, SECOND
from bems.tracker.policy import PolicySpec, StageSpec

MIN_INVOICES = 20
"""Minimum number of invoices that completed a stage for a suggestion; with fewer, the default's deadline stays."""

BUSINESS_DAYS_PER_WEEK, DAYS_PER_WEEK = 5, 7


class SuggestedDeadline(NamedTuple):
    """Deadline of a stage: the business days within which a share of the log's invoices completed it.

    `invoices` is the number of stays in the stage that ended, `seconds` the time within which that share of them ended.
    `deadline` is None if there are too few.
    """

    stage: Stage
    invoices: int
    seconds: float | None
    deadline: str | None


def suggest_deadlines(report: Report, percent: int) -> list[SuggestedDeadline]:
    """Return the deadline of each stage that `percent` of the invoices kept that waited for it, in business days."""
    return [_suggest(stage, report, percent) for stage in STAGES]


def _suggest(stage: Stage, report: Report, percent: int) -> SuggestedDeadline:
    # An invoice whose event was early waited for nothing.
    waited = sorted(duration for duration in report.durations[stage] if duration > 0)
    if not waited:
        return SuggestedDeadline(stage, 0, None, None)
    longest = waited[ceil(len(waited) * percent / 100) - 1]
    days = ceil(longest / DAY)
    deadline = f"{ceil(days * BUSINESS_DAYS_PER_WEEK / DAYS_PER_WEEK)}bd"
    return SuggestedDeadline(stage, len(waited), longest / SECOND, deadline if len(waited) >= MIN_INVOICES else None)


def with_deadlines(spec: PolicySpec, suggested: list[SuggestedDeadline]) -> PolicySpec:
    """Return the policy with the suggested deadlines. Its other keys stay, and so do its overrides."""
    stages: dict[str, StageSpec] = {
        one.stage: structs.replace(getattr(spec.stages, one.stage), deadline=one.deadline)
        for one in suggested
        if one.deadline is not None
    }
    return structs.replace(spec, stages=structs.replace(spec.stages, **stages))


def render_policy(suggested: list[SuggestedDeadline], percent: int) -> str:
    """Return the suggested deadlines as the text of a policy file."""
    lines = [f"# Deadlines that {percent}% of the log's invoices kept. What is left out has the default.", "stages:"]
    lines += [f"  {one.stage + ':':<16}{{deadline: {one.deadline}}}" for one in suggested if one.deadline is not None]
    return "\n".join(lines) + "\n" if len(lines) > 2 else "{}\n"


def as_document(suggested: list[SuggestedDeadline], percent: int, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the suggestion as printed by --json. `figures` compare the policies."""
    return {"percent": percent, "stages": [one._asdict() for one in suggested], **figures}
