"""Policy history: the policy that a cell starts with, and the stored policies that were in force before."""

from collections.abc import Callable
from typing import NamedTuple

from bems.embedded.storage.database_files import StoreUnusable
from bems.tracker.instants import Instant
from bems.tracker.policy import Policy
from bems.tracker.policy_file import policy_from_json

DEFAULT_SOURCE = "default"
"""Source of the built-in policy."""

PROGRAM_SOURCE = "program"
"""Source of a policy that was passed by a program."""

PolicyOrDefault = Policy | Callable[[], Policy]
"""A policy to start with, or a function that makes the default one in case none is stored yet."""


class StoredPolicy(NamedTuple):
    """Policy as it is stored. `document` is the output of `policy_to_json`, with every date of the calendar.

    The policy is in force from `since` to `until`; None while it still is.
    """

    number: int
    since: Instant
    digest: str
    source: str
    document: bytes
    until: Instant | None

    def load(self) -> Policy:
        """Return the policy. Raises StoreUnusable if this program cannot read it."""
        try:
            return policy_from_json(self.document)
        except ValueError as error:
            raise StoreUnusable(
                f"the policy in force, {self.source}, cannot be read: {error}: give one with --policy"
            ) from error


class PolicyInForce(NamedTuple):
    """Policy that a cell applies. `since` is None until the cell starts; `is_resumed`: it is the stored one."""

    policy: Policy
    source: str
    since: Instant | None = None
    is_resumed: bool = False


def choose_policy(policy: PolicyOrDefault, source: str, stored: StoredPolicy | None) -> PolicyInForce:
    """Return the given policy, or else the stored one, or else the default one.

    Raises StoreUnusable if the stored policy is needed and cannot be read.
    """
    if isinstance(policy, Policy):
        return PolicyInForce(policy, source)
    if stored is not None:
        return PolicyInForce(stored.load(), stored.source, stored.since, is_resumed=True)
    return PolicyInForce(policy(), DEFAULT_SOURCE)
