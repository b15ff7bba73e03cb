"""The entry points of the functions on AWS: parse, call the tracker over `bems.aws`, answer."""
