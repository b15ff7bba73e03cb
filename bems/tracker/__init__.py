"""Domain logic: what an invoice's events mean, what the invoice waits for, and when to raise an alert.

Pure: no I/O, no clock, no randomness. A runtime loads a record, calls `bems.tracker.decisions`, saves the result and
carries out its actions.
"""
