"""Delivery of alerts: at least once, in order per invoice."""
