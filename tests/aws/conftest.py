"""The fixtures of this folder."""

from tests.aws.fixtures import cloud, whole_cloud

__all__ = ["cloud", "whole_cloud"]
