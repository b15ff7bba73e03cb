"""Peers: the strongest alternatives, measured on the same work as our cell.

Each engine is a module here. The code that a user of the engine would write is in `services` and runs in a separate
environment.
"""
