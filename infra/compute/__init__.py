"""Lambda functions and state machines."""
