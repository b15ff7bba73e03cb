"""`bems policy suggest`: deadlines from the quantiles of a log, and what they would have raised."""

from pathlib import Path

import pytest

from bems.cli.policy_suggestion import MIN_INVOICES, suggest_deadlines
from bems.embedded.replay.report import Report
from bems.generator.event_log import generate
from bems.tracker.instants import DAY
from tests.cli.cli_harness import run


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("log") / "events.jsonl"
    path.write_bytes(b"".join(generate(300, 3)))
    return str(path)


def report(**days: list[float]) -> Report:
    made = Report()
    for stage, durations in days.items():
        made.durations[stage].extend(int(one * DAY) for one in durations)  # type: ignore[index]
    return made


def test_a_deadline_is_a_quantile_in_business_days() -> None:
    # 18 of 20 waited 7 days at most; events that were early waited for nothing, and do not count.
    waits = [1.0] * 10 + [6.5] * 8 + [30.0] * 2
    ingestion, authorization, *_ = suggest_deadlines(report(authorization=[0.0] * 80 + waits), 90)
    assert (authorization.invoices, authorization.deadline) == (20, "5bd")
    assert (ingestion.invoices, ingestion.deadline) == (0, None)
    assert suggest_deadlines(report(authorization=waits), 95)[1].deadline == "22bd"
    assert suggest_deadlines(report(authorization=[0.1] * MIN_INVOICES), 50)[1].deadline == "1bd"


def test_too_few_invoices_give_no_deadline() -> None:
    assert suggest_deadlines(report(posting=[3.0] * (MIN_INVOICES - 1)), 90)[3].deadline is None


def test_the_suggested_policy_is_valid_and_raises_what_the_comparison_says(log: str, tmp_path: Path) -> None:
    out = tmp_path / "policy.yaml"
    suggestion = run("policy", "suggest", log, "--out", str(out), "--json", "--processes", "1")
    assert (suggestion.code, suggestion.err) == (0, "")
    assert suggestion.json["policy"] == out.read_text()
    assert run("policy", "check", str(out)).code == 0
    replayed = run("replay", log, "--policy", str(out), "--json", "--processes", "1").json
    assert suggestion.json["policies"][1]["alerts"] == replayed["alerts"]
    first, second = (sum(sum(one.values()) for one in two["alerts"].values()) for two in suggestion.json["policies"])
    assert min(first, second) > 0
    printed = run("policy", "suggest", log, "--processes", "1").out
    assert out.read_text().strip() in printed
    assert f"all alerts {first:,} {second:,}" in " ".join(printed.split())


def test_a_file_is_not_overwritten(log: str, tmp_path: Path) -> None:
    out = tmp_path / "policy.yaml"
    out.write_text("mine")
    refused = run("policy", "suggest", log, "--out", str(out), "--processes", "1")
    assert refused.code != 0 and "--force" in refused.err
    assert out.read_text() == "mine"
    assert run("policy", "suggest", log, "--out", str(out), "--force", "--processes", "1").code == 0


def test_a_missing_log_is_named() -> None:
    result = run("policy", "suggest", "none.jsonl")
    assert (result.code, result.out) == (2, "")
    assert "none.jsonl" in result.err
