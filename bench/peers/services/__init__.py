"""Code that a user of each peer would write. It runs in the peers' own environments, so it cannot import `bems`."""
