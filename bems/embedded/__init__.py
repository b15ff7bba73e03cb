"""Embedded runtime: the invoice lifecycle and its state machine definition on one machine, without AWS."""
