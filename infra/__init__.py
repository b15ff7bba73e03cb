"""A cell on AWS as CDK constructs."""
