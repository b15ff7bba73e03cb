"""What a user of each peer would write. These run in the peers' own environments, so they know nothing of `bems`."""
