"""Removal policy of resources that hold data."""

from aws_cdk import RemovalPolicy

RETAIN_ON_UPDATE_OR_DELETE = RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE
"""Keep a resource when the stack is deleted and when the resource is replaced, but delete it when the deployment that
created it fails: it is empty then, and its name would block the next deployment (CloudFormation template reference,
"DeletionPolicy attribute", `RetainExceptOnCreate`)."""
