"""The roll-up: the series counted by the hour, for dashboards. It is made as rows come in, in the same transaction.

A hundred million transitions become some hundred thousand rows here, so that a question about a year takes
milliseconds. The last rows are not rolled up until there are `EVERY` of them; `hourly(n` counts those behind row n,
the last that was rolled up, as it is asked: so it always tells of every row once.

What has nothing to say in a column of the key is the empty text, because NULLs are never equal.

How many rows an hour may have is not left to senders. Of what they write freely only the vendors' tier is in the key:
the first `MAX_TIERS` that come keep their names, and all further ones are `OTHER` together. Which those are depends on
the order of the rows alone, so a series that is made again has the same. Whatever else is in the key is a choice of few
(stages, statuses, outcomes, severities) or of ISO 4217 (currencies, whose amounts cannot be added).
"""

MAX_TIERS = 50
"""So many tiers of vendors are told apart. Companies have a handful."""

OTHER = "other"

ROWS_PER_ROLLUP = 10_000
"""Rows that are rolled up at once: it costs as much as writing some thousands."""

_KEY = {
    "hour": "date_trunc('hour', recorded_at)",
    "stage": "stage",
    "kind": "kind",
    "from_status": "coalesce(from_status, '')",
    "to_status": "to_status",
    "outcome": "coalesce(outcome, '')",
    "severity": "coalesce(severity, '')",
    "vendor_tier": f"CASE WHEN vendor_tier IS NULL THEN '' ELSE coalesce(tiers.name, '{OTHER}') END",
    "from_currency": "coalesce(from_currency, '')",
    "to_currency": "to_currency",
}

_SUMS = {
    "transitions": "count(*)",
    "superseded": "count(*) FILTER (superseded)",
    "from_amount": "coalesce(sum(from_amount), 0)",
    "to_amount": "sum(to_amount)",
    "measured": "count(lag_ms)",
    "lag_ms": "coalesce(sum(lag_ms), 0)",
    "within_1s": "count(*) FILTER (lag_ms <= 1000)",
    "within_10s": "count(*) FILTER (lag_ms <= 10000)",
    "within_2min": "count(*) FILTER (lag_ms <= 120000)",
}
"""`measured` are the rows that have a lag, `lag_ms` is the sum of theirs."""

_COUNTED = (
    f"SELECT {', '.join(f'{sql} AS {name}' for name, sql in (_KEY | _SUMS).items())}"
    " FROM transitions LEFT JOIN tiers ON tiers.name = transitions.vendor_tier"
    f" WHERE seq > {{}} GROUP BY {', '.join(str(number) for number in range(1, len(_KEY) + 1))}"
)

CREATE = f"""
CREATE TABLE tiers (name VARCHAR NOT NULL PRIMARY KEY);
CREATE TABLE rolled_up (
    {", ".join(f"{name} {'TIMESTAMP' if name == 'hour' else 'VARCHAR'} NOT NULL" for name in _KEY)},
    {", ".join(f"{name} {'DECIMAL(38, 4)' if name.endswith('amount') else 'BIGINT'} NOT NULL" for name in _SUMS)},
    PRIMARY KEY ({", ".join(_KEY)})
);
CREATE MACRO hourly(behind) AS TABLE SELECT * FROM rolled_up UNION ALL {_COUNTED.format("behind")};
"""

UPSERT_SQL = f"""
INSERT INTO rolled_up {_COUNTED.format("$behind")}
ON CONFLICT DO UPDATE SET {", ".join(f"{name} = {name} + excluded.{name}" for name in _SUMS)}
"""
"""Adds the rows behind the last one that was rolled up."""
