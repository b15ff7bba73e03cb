"""Records table, time series and backups."""
