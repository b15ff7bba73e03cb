"""Policies of a cell: which one a start goes by, and those that were in force before, each from its instant on."""

from collections.abc import Callable
from typing import NamedTuple

from bems.embedded.storage.database_files import StoreUnusable
from bems.tracker.instants import Instant
from bems.tracker.policy import Policy
from bems.tracker.policy_file import load_policy

DEFAULT_SOURCE = "default"
"""The source of the built-in policy."""

PROGRAM_SOURCE = "program"
"""The source of a policy that a caller made."""

PolicyOrDefault = Policy | Callable[[], Policy]
"""A policy that a start names; or, where it names none, what makes the default one, should none be kept yet."""


class StoredPolicy(NamedTuple):
    """A policy as the store keeps it: `document` is what `dump_policy` wrote, with every date.

    It is in force from `since` on, until another one was: None, if none was.
    """

    number: int
    since: Instant
    digest: str
    source: str
    document: bytes
    until: Instant | None

    def load(self) -> Policy:
        """StoreRefused: this program cannot read it."""
        try:
            return load_policy(self.document)
        except ValueError as error:
            raise StoreUnusable(
                f"the policy in force, {self.source}, cannot be read: {error}: name one with --policy"
            ) from error


class PolicyInForce(NamedTuple):
    """What a cell goes by. `since` is None before its start; `is_resumed`: the start named none, so it is the kept
    one."""

    policy: Policy
    source: str
    since: Instant | None = None
    is_resumed: bool = False


def choose_policy(named: PolicyOrDefault, source: str, kept: StoredPolicy | None) -> PolicyInForce:
    """The policy of a start. StoreRefused: the kept one cannot be read."""
    if isinstance(named, Policy):
        return PolicyInForce(named, source)
    if kept is not None:
        return PolicyInForce(kept.load(), kept.source, kept.since, is_resumed=True)
    return PolicyInForce(named(), DEFAULT_SOURCE)
