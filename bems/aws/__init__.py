"""AWS runtime: boto3 adapters for the tracker's ports. The Lambda functions are in `handlers`."""
