"""The time series in DuckDB, and the dashboards over it."""
