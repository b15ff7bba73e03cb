"""Buses, queues, topics and subscribers."""
