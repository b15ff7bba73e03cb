"""The durable store: one SQLite database with one writer."""
