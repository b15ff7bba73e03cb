"""Check that the concurrency which cells reserve fits their account's Lambda quota."""

from collections import defaultdict
from collections.abc import Iterable

from bems.tracker.cells import MIN_UNRESERVED_INSTANCES, CellConfig


def check_account_quota(cells: Iterable[CellConfig]) -> None:
    """Raise ValueError when the cells of one account and Region together reserve more than its quota allows.

    Otherwise the deployment of the last of these stacks would fail. `bems.tracker.cells` checks each cell on its own.
    """
    groups: defaultdict[tuple[str | None, str], list[CellConfig]] = defaultdict(list)
    for cell in cells:
        if cell.concurrency.reserved:
            groups[cell.account, cell.region].append(cell)
    for (_, region), group in groups.items():
        quota = min(cell.concurrency.account for cell in group)
        total = sum(cell.concurrency.total for cell in group)
        if total > quota - MIN_UNRESERVED_INSTANCES:
            names = ", ".join(cell.name for cell in group)
            raise ValueError(
                f"the cells {names} of {region} reserve {total} of the {quota} Lambda instances of their account, of "
                f"which {MIN_UNRESERVED_INSTANCES} must stay unreserved: raise the quota and "
                '"concurrency.account" of each cell, or lower what they reserve'
            )
