"""Business Event Monitoring System: follows every invoice from ingestion to posting and finds the ones that are stuck."""

__version__ = "0.1.0"
