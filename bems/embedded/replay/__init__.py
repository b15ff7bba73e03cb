"""Replay of past events, and its report."""
