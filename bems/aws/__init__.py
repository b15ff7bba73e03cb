"""AWS adapters of the tracker's ports, over boto3."""
