"""Generator of believable event logs."""
