"""Alerting: how alerts get to people, at least once and in order."""
