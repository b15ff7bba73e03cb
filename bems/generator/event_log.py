"""The generator: a believable log of events, made up, the same for the same seed on every machine.

Lines come in the order of their arrival, which is not that of what they tell: see `stories` for what goes wrong.
"""

import re
from bisect import bisect_right
from calendar import monthrange
from collections import defaultdict
from collections.abc import Iterator
from datetime import date
from operator import itemgetter
from random import Random

from bems.generator.scenarios import (
    CLEAN,
    DAY_SECONDS,
    EPOCH_DATE,
    EVERYDAY,
    Emission,
    Profile,
    Scenario,
    iso_date,
    make_scenario,
)
from bems.generator.vendors import cumulative_volumes, make_vendors

__all__ = ["CLEAN", "EVERYDAY", "Profile", "Scenario", "generate", "render", "scenarios"]

START = date(2026, 1, 1)
DAYS = 31
FIRST_YEAR, LAST_YEAR = 1971, 2090

# How many invoices begin on a day, in proportion: Monday to Sunday, but on the last business days of a month so many
# times as many (the last one first), and on holidays of nearly every country as few as on a Sunday.
WEEKDAYS = (110, 100, 100, 95, 85, 12, 5)
MONTH_END = (6, 4, 2)
HOLIDAYS = frozenset({(1, 1), (12, 25)})

# What is malformed in a line, by turns: pattern and replacement.
MALFORMATIONS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r'"currency":"..."', '"currency":"EUX"'),
        (r'"currency":"(...)"', r'"currency":"\g<1>O"'),
        (r'("amount":"-?\d+)[.\d]*"', r'\1.12345"'),
        (r'"amount":"([^"]*)"', r'"amount":\1'),
        (r'("amount":"-?)', r"\1€ "),
        (r'"invoice_id":"[^"]*",', ""),
        (r'"event_id":"[^"]*"', '"event_id":""'),
        (r'"status":"[^"]*"', '"status":"pending"'),
        (r'("status":"[^"]*")', r"\1,\1"),
        (r'("occurred_at":"[^"]{19})[^"]*"', r'\1"'),
        # Far beyond any clock that reads this, so that it is refused whenever that is.
        (r'"occurred_at":"....', '"occurred_at":"2099'),
        (r'"occurred_at":"(....)-(..)-(..)T[^"]*"', r'"occurred_at":"\3.\2.\1"'),
        (r'("source":)', r'"document_type":"RE",\1'),
        (r'("vendor":\{)"id":"[^"]*",', r"\1"),
        (r'"stage":"[^"]*"', '"stage":"payment"'),
        (r".{60}\n$", "\n"),
        (r"^.*$", "<html><body>502 Bad Gateway</body></html>"),
    )
)
CONFLICT = re.compile(r'("amount":"-?)')

_MINUTES = [f"T{minute // 60:02}:{minute % 60:02}:" for minute in range(24 * 60)]
_SECONDS = [f"{second:02}" for second in range(60)]


def generate(
    invoices: int, seed: int, *, start: date = START, days: int = DAYS, profile: Profile = EVERYDAY
) -> Iterator[bytes]:
    """The lines of a log of so many invoices, which begin on the days from `start` on, and are told to their end.

    Lines come in the order in which they arrive, each `{"stage": ..., "event": {...}}` with a newline; the last ones
    weeks after the last invoice began. With the defaults there are about 4.1 lines an invoice. ValueError where the
    numbers make no sense.

    Memory holds the invoices of which something is still to be sent, about 1.5 kB each: most of the last week's, and a
    few of the weeks before. A million over a year take 70 MB at the most, a million in one month 600 MB.
    """
    return _in_order(scenarios(invoices, seed, start=start, days=days, profile=profile))


def scenarios(
    invoices: int, seed: int, *, start: date = START, days: int = DAYS, profile: Profile = EVERYDAY
) -> Iterator[Scenario]:
    """What `generate` with the same arguments makes its lines from, in the order in which the invoices begin."""
    if invoices < 0:
        raise ValueError(f"{invoices} invoices: use 0 or more")
    if days < 1:
        raise ValueError(f"{days} days: use 1 or more")
    first = start.toordinal()
    if start.year < FIRST_YEAR or first + days > date(LAST_YEAR, 12, 31).toordinal():
        raise ValueError(f"{days} days from {start}: use a start from {FIRST_YEAR} and an end up to {LAST_YEAR}")
    return _scenarios(invoices, seed, first - EPOCH_DATE, days, profile)


def _scenarios(invoices: int, seed: int, first: int, days: int, profile: Profile) -> Iterator[Scenario]:
    random = Random(f"stories {seed}").random
    suppliers, volumes = make_vendors(seed), cumulative_volumes()
    weights = _weights(first, days)
    passed, begun, total = 0, 0, sum(weights)
    for day, weight in enumerate(weights, first):
        passed += weight
        before, begun = begun, invoices * passed // total
        for number in range(before + 1, begun + 1):
            supplier = suppliers[bisect_right(volumes, random() * volumes[-1])]
            yield make_scenario(number, day, supplier, profile, random)


def _weights(first: int, days: int) -> list[int]:
    """How many invoices begin on each day, in proportion."""
    return [_daily_volume(date.fromordinal(EPOCH_DATE + day)) for day in range(first, first + days)]


def _daily_volume(day: date) -> int:
    if (day.month, day.day) in HOLIDAYS:
        return WEEKDAYS[6]
    weight = WEEKDAYS[day.weekday()]
    if day.weekday() > 4:
        return weight
    after = range(day.day + 1, monthrange(day.year, day.month)[1] + 1)
    left = sum(1 for other in after if day.replace(day=other).weekday() <= 4)
    return weight * MONTH_END[left] if left < len(MONTH_END) else weight


def _in_order(plans: Iterator[Scenario]) -> Iterator[bytes]:
    """The lines of all plans by arrival, a day at a time; equal arrivals as they were planned."""
    book: defaultdict[int, list[Scenario]] = defaultdict(list)
    today = 0
    for plan in plans:
        if plan.day > today:
            today = plan.day
            # What is planned from today on arrives after the beginning of yesterday, wherever it comes from.
            yield from _rendered(book, today - 1)
        for day in {sending.arrives // DAY_SECONDS for sending in plan.emissions}:
            book[day].append(plan)
    yield from _rendered(book, max(book, default=0) + 1)


def _rendered(book: dict[int, list[Scenario]], until: int) -> Iterator[bytes]:
    """Take what arrives on the days before `until` out of the book."""
    for day in sorted(day for day in book if day < until):
        arrivals = [
            (sending.arrives, plan, sending)
            for plan in book.pop(day)
            for sending in plan.emissions
            if sending.arrives // DAY_SECONDS == day
        ]
        arrivals.sort(key=itemgetter(0))
        for _, plan, sending in arrivals:
            yield render(plan, sending)


def render(plan: Scenario, sending: Emission) -> bytes:
    """The line, with its newline."""
    sender = plan.vendor.senders[sending.stage]
    day, second = divmod(sending.occurs + sender.shift, DAY_SECONDS)
    line = (
        f'{{"stage":"{sending.stage}","event":{{"event_id":"{sender.prefix}-{plan.number:07}-{sending.number}",'
        f'"invoice_id":"{plan.invoice_id}","status":"{sending.status}",'
        f'"occurred_at":"{iso_date(day)}{_MINUTES[second // 60]}{_SECONDS[second % 60]}{sender.suffix}",'
        f'"amount":"{plan.amount}",{sender.constant}{plan.details if sender.detailed else ""}}}}}\n'
    )
    if sending.form == "malformed":
        pattern, replacement = MALFORMATIONS[(plan.number + sending.number) % len(MALFORMATIONS)]
        line = pattern.sub(replacement, line, count=1)
    elif sending.form == "conflict":
        line = CONFLICT.sub(r"\g<1>1", line, count=1)
    return line.encode()
