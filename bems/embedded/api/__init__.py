"""The HTTP API of the embedded cell."""
