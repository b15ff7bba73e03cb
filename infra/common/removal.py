"""Removal: what becomes of what has data in it when its stack lets go of it."""

from aws_cdk import RemovalPolicy

RETAIN_ON_UPDATE_OR_DELETE = RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE
"""It stays when the stack is deleted, and when another takes its place; but not when the deployment that made it fails:
it is empty then, and its name would be in the way of the next one (CloudFormation template reference, "DeletionPolicy
attribute", `RetainExceptOnCreate`)."""
