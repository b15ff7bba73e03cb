"""The AWS home: adapters of the tracker's ports over boto3. The functions that use them are in `handlers`."""
