"""Names, keys, IAM statements and profiles that all constructs share."""
