"""Hourly roll-up of the time series, for dashboards. It is updated in the transaction that adds the rows.

It reduces a hundred million transitions to some hundred thousand rows, so that a query over a year takes milliseconds.
New rows are rolled up in groups of `ROWS_PER_ROLLUP`. The macro `hourly(n` adds the rows with a number greater than n,
the last one that was rolled up, at query time. It therefore counts every row exactly once.

Key columns hold empty text instead of NULL, because NULLs are never equal.

Senders cannot make the number of rows per hour grow without limit. The vendor tier is the only free text in the key:
the first `MAX_TIERS` tiers keep their names, and all later ones are counted as `OTHER_TIER`. The choice depends only on
the order of the rows, so a rebuilt series has the same tiers. All other key columns have few values (stages, statuses,
outcomes, severities) or come from ISO 4217 (currencies, whose amounts cannot be added).
"""

MAX_TIERS = 50
"""Maximum number of vendor tiers that are counted separately. Companies have a handful."""

OTHER_TIER = "other"

ROWS_PER_ROLLUP = 10_000
"""Number of rows that are rolled up at once. A roll-up costs as much as writing a few thousand rows."""

_KEY = {
    "hour": "date_trunc('hour', recorded_at)",
    "stage": "stage",
    "kind": "kind",
    "from_status": "coalesce(from_status, '')",
    "to_status": "to_status",
    "outcome": "coalesce(outcome, '')",
    "severity": "coalesce(severity, '')",
    "vendor_tier": f"CASE WHEN vendor_tier IS NULL THEN '' ELSE coalesce(tiers.name, '{OTHER_TIER}') END",
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
"""`measured` is the number of rows that have a lag, and `lag_ms` is the sum of those lags in milliseconds."""

_AGGREGATE_SQL = (
    f"SELECT {', '.join(f'{sql} AS {name}' for name, sql in (_KEY | _SUMS).items())}"
    " FROM transitions LEFT JOIN tiers ON tiers.name = transitions.vendor_tier"
    f" WHERE seq > {{}} GROUP BY {', '.join(str(number) for number in range(1, len(_KEY) + 1))}"
)

CREATE_SQL = f"""
CREATE TABLE tiers (name VARCHAR NOT NULL PRIMARY KEY);
CREATE TABLE rolled_up (
    {", ".join(f"{name} {'TIMESTAMP' if name == 'hour' else 'VARCHAR'} NOT NULL" for name in _KEY)},
    {", ".join(f"{name} {'DECIMAL(38, 4)' if name.endswith('amount') else 'BIGINT'} NOT NULL" for name in _SUMS)},
    PRIMARY KEY ({", ".join(_KEY)})
);
CREATE MACRO hourly(behind) AS TABLE SELECT * FROM rolled_up UNION ALL {_AGGREGATE_SQL.format("behind")};
"""

UPSERT_SQL = f"""
INSERT INTO rolled_up {_AGGREGATE_SQL.format("$behind")}
ON CONFLICT DO UPDATE SET {", ".join(f"{name} = {name} + excluded.{name}" for name in _SUMS)}
"""
"""Rolls up the rows with a number greater than $behind, the last one that was rolled up."""
