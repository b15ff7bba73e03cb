"""Business Event Monitoring System: follows every invoice through its stages and finds the ones that are stuck."""

__version__ = "0.1.0"
