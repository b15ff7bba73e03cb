"""Fixtures of the tests in this folder."""

from tests.aws.fixtures import cloud, module_cloud

__all__ = ["cloud", "module_cloud"]
