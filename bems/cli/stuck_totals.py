"""Totals of the stuck invoices: their number, how many are parked, and their amount in each currency."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, NamedTuple

from bems.cli.client import Client, ListPage, decode_as
from bems.cli.output import format_amount
from bems.embedded.api.access import VIEWERS
from bems.embedded.api.views import Total
from bems.tracker.contract import Stage
from bems.tracker.status import WAITS_FOR


class StuckTotals(NamedTuple):
    """Totals of the stuck invoices: those with an alert in their current wait, and those that are parked.

    `parked` counts only the parked ones. `invoices` and `amounts` are by currency, the one of the most invoices first.
    """

    parked: int
    invoices: dict[str, int]
    amounts: dict[str, str]

    @property
    def total(self) -> int:
        return sum(self.invoices.values())

    @property
    def main_currency(self) -> str | None:
        """The currency of the most stuck invoices; amounts of different currencies cannot be compared."""
        return next(iter(self.invoices), None)

    def as_document(self) -> dict[str, Any]:
        """Return the totals as printed by --json."""
        return {"stuck": self.total, "parked": self.parked, "stuck_amounts": self.amounts}

    def __str__(self) -> str:
        """Return a sentence such as `23 are stuck, 4 of them parked: 84,120.00 EUR, 1,200.00 GBP`."""
        if not self.total:
            return "none is stuck"
        parked = f", {self.parked:,} of {'them' if self.total > 1 else 'it'} parked" if self.parked else ""
        if self.parked == self.total:
            parked = ", all of them parked" if self.total > 1 else ", and parked"
        worth = ", ".join(format_amount(amount, currency) for currency, amount in self.amounts.items())
        return f"{self.total:,} {'are' if self.total > 1 else 'is'} stuck{parked}: {worth}"


def read_stuck_totals(client: Client, stage: Stage | None = None) -> StuckTotals:
    """Read the totals of a cell. With `stage`, include only invoices that wait for that stage."""
    totals = decode_as(client.request_json("GET", "/totals", VIEWERS), ListPage[Total]).items
    return sum_totals(one for one in totals if stage is None or WAITS_FOR[one.status] == stage)


def sum_totals(totals: Iterable[Total]) -> StuckTotals:
    """Add up the totals of all statuses."""
    parked = 0
    invoices: Counter[str] = Counter()
    amounts: defaultdict[str, Decimal] = defaultdict(Decimal)
    for total in totals:
        if total.stuck:
            parked += total.parked
            invoices[total.currency] += total.stuck
            amounts[total.currency] += Decimal(total.stuck_amount)
    ordered = sorted(invoices, key=lambda currency: (-invoices[currency], currency))
    return StuckTotals(
        parked, {one: invoices[one] for one in ordered}, {one: format(amounts[one], "f") for one in ordered}
    )
