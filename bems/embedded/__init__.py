"""The runtime on one machine: the same lifecycle and state machine definition, without AWS."""
