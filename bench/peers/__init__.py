"""The peers: the strongest alternatives, on the same work beside our cell.

Each engine is a module here; what a user of it would write is in `services`, and runs in an environment of its own.
"""
