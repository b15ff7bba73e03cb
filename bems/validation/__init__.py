"""Collect every problem of a document, and describe it."""
