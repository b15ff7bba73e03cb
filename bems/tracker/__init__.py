"""The domain: what an invoice's events mean, what to wait for, when to raise an alert.

Pure: no I/O, no clock, no randomness. A shell loads a record, asks `bems.tracker.decisions`, saves, acts.
"""
