"""Alerting: delivers alerts to people at least once, in order per invoice."""
