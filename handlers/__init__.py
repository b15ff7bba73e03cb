"""Lambda entry points: parse, call the tracker over `bems.aws`, answer."""
