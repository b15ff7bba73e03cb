"""Lambda handlers: each parses its event, calls the tracker through `bems.aws` and returns the result."""
