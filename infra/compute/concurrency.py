"""Concurrency: whether what several cells reserve of one account's Lambda instances is there to be reserved."""

from collections import defaultdict
from collections.abc import Iterable

from bems.tracker.cells import MIN_UNRESERVED_INSTANCES, Cell


def check_account_quota(cells: Iterable[Cell]) -> None:
    """ValueError for cells of one account and Region that do not fit in it together: the stack that is deployed last
    would fail. (One by one they fit: `bems.tracker.cells` sees to that.)"""
    places: defaultdict[tuple[str | None, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        if cell.concurrency.reserved:
            places[cell.account, cell.region].append(cell)
    for (_, region), together in places.items():
        quota = min(cell.concurrency.account for cell in together)
        total = sum(cell.concurrency.total for cell in together)
        if total > quota - MIN_UNRESERVED_INSTANCES:
            names = ", ".join(cell.name for cell in together)
            raise ValueError(
                f"the cells {names} of {region} reserve {total} of the {quota} Lambda instances of their account, of "
                f"which {MIN_UNRESERVED_INSTANCES} must be left: "
                'raise the quota and "concurrency.account" of each, or lower the rest'
            )
