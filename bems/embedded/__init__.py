"""The one-machine home: the same lifecycle and the same state machine definition, without AWS."""
