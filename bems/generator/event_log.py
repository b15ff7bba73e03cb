"""Generator of realistic synthetic event logs. A seed gives the same log on every machine.

Lines are in the order of their arrival, which differs from the order in which the events occurred; see `scenarios` for
the faults.
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
    LogProfile,
    Scenario,
    iso_date,
    make_scenario,
)
from bems.generator.vendors import cumulative_volumes, make_vendors

__all__ = ["CLEAN", "EVERYDAY", "LogProfile", "Scenario", "generate", "render_line", "scenarios"]

DEFAULT_START = date(2026, 1, 1)
DEFAULT_DAYS = 31
MIN_START_YEAR, MAX_START_YEAR = 1971, 2090

# Relative number of invoices that begin on a day, from Monday to Sunday; the factors for the last business days of a
# month (the last one first); and holidays in nearly every country, which count as Sundays.
WEEKDAY_WEIGHTS = (110, 100, 100, 95, 85, 12, 5)
MONTH_END_FACTORS = (6, 4, 2)
HOLIDAYS = frozenset({(1, 1), (12, 25)})

# Malformations of a line, applied in rotation: pattern and replacement.
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
        # In the far future, so that the event is refused whenever the log is read.
        (r'"occurred_at":"....', '"occurred_at":"2099'),
        (r'"occurred_at":"(....)-(..)-(..)T[^"]*"', r'"occurred_at":"\3.\2.\1"'),
        (r'("source":)', r'"document_type":"RE",\1'),
        (r'("vendor":\{)"id":"[^"]*",', r"\1"),
        (r'"stage":"[^"]*"', '"stage":"payment"'),
        (r".{60}\n$", "\n"),
        (r"^.*$", "<html><body>502 Bad Gateway</body></html>"),
    )
)
CONFLICTING_AMOUNT = re.compile(r'("amount":"-?)')

_MINUTES = [f"T{minute // 60:02}:{minute % 60:02}:" for minute in range(24 * 60)]
_SECONDS = [f"{second:02}" for second in range(60)]


def generate(
    invoices: int, seed: int, *, start: date = DEFAULT_START, days: int = DEFAULT_DAYS, profile: LogProfile = EVERYDAY
) -> Iterator[bytes]:
    """Generate the lines of a log with the complete lifecycles of `invoices` that begin within `days` from `start`.

    Lines are in the order of arrival, each `{"stage": ..., "event": {...}}` with a newline. The last ones arrive weeks
    after the last invoice began. With the defaults there are about 4.1 lines per invoice. Raises ValueError if an
    argument is out of range.

    Memory holds the invoices with outstanding events, about 1.5 kB each: most of those of the last week, and a few
    older ones. A million invoices over a year take at most 70 MB, a million in one month 600 MB.
    """
    return _lines_by_arrival(scenarios(invoices, seed, start=start, days=days, profile=profile))


def scenarios(
    invoices: int, seed: int, *, start: date = DEFAULT_START, days: int = DEFAULT_DAYS, profile: LogProfile = EVERYDAY
) -> Iterator[Scenario]:
    """Generate the scenarios of the log that `generate` returns for the same arguments, in the order of their days."""
    if invoices < 0:
        raise ValueError(f"{invoices} invoices: use 0 or more")
    if days < 1:
        raise ValueError(f"{days} days: use 1 or more")
    first = start.toordinal()
    if start.year < MIN_START_YEAR or first + days > date(MAX_START_YEAR, 12, 31).toordinal():
        raise ValueError(
            f"{days} days from {start}: use a start from {MIN_START_YEAR} and an end up to {MAX_START_YEAR}"
        )
    return _scenarios(invoices, seed, first - EPOCH_DATE, days, profile)


def _scenarios(invoices: int, seed: int, first: int, days: int, profile: LogProfile) -> Iterator[Scenario]:
    random = Random(f"stories {seed}").random
    vendors, volumes = make_vendors(seed), cumulative_volumes()
    weights = _daily_weights(first, days)
    weight_so_far, count_so_far, total = 0, 0, sum(weights)
    for day, weight in enumerate(weights, first):
        weight_so_far += weight
        before, count_so_far = count_so_far, invoices * weight_so_far // total
        for number in range(before + 1, count_so_far + 1):
            vendor = vendors[bisect_right(volumes, random() * volumes[-1])]
            yield make_scenario(number, day, vendor, profile, random)


def _daily_weights(first: int, days: int) -> list[int]:
    """Return the relative number of invoices that begin on each day."""
    return [_daily_weight(date.fromordinal(EPOCH_DATE + day)) for day in range(first, first + days)]


def _daily_weight(day: date) -> int:
    if (day.month, day.day) in HOLIDAYS:
        return WEEKDAY_WEIGHTS[6]
    weight = WEEKDAY_WEIGHTS[day.weekday()]
    if day.weekday() > 4:
        return weight
    later_days = range(day.day + 1, monthrange(day.year, day.month)[1] + 1)
    business_days_left = sum(1 for other in later_days if day.replace(day=other).weekday() <= 4)
    return weight * MONTH_END_FACTORS[business_days_left] if business_days_left < len(MONTH_END_FACTORS) else weight


def _lines_by_arrival(by_day: Iterator[Scenario]) -> Iterator[bytes]:
    """Render the lines by arrival, one day at a time. Lines with equal arrivals keep the order of their scenarios."""
    pending: defaultdict[int, list[Scenario]] = defaultdict(list)
    today = 0
    for scenario in by_day:
        if scenario.day > today:
            today = scenario.day
            # Emissions of scenarios from today on arrive after the start of yesterday, in every time zone.
            yield from _render_until(pending, today - 1)
        for day in {emission.arrives // DAY_SECONDS for emission in scenario.emissions}:
            pending[day].append(scenario)
    yield from _render_until(pending, max(pending, default=0) + 1)


def _render_until(pending: dict[int, list[Scenario]], until: int) -> Iterator[bytes]:
    """Remove the days before `until` from `pending` and render their lines."""
    for day in sorted(day for day in pending if day < until):
        arrivals = [
            (emission.arrives, scenario, emission)
            for scenario in pending.pop(day)
            for emission in scenario.emissions
            if emission.arrives // DAY_SECONDS == day
        ]
        arrivals.sort(key=itemgetter(0))
        for _, scenario, emission in arrivals:
            yield render_line(scenario, emission)


def render_line(scenario: Scenario, emission: Emission) -> bytes:
    """Render a line, including its newline."""
    sender = scenario.vendor.senders[emission.stage]
    day, second = divmod(emission.occurs + sender.shift_seconds, DAY_SECONDS)
    line = (
        f'{{"stage":"{emission.stage}","event":{{"event_id":"{sender.prefix}-{scenario.number:07}-{emission.number}",'
        f'"invoice_id":"{scenario.invoice_id}","status":"{emission.status}",'
        f'"occurred_at":"{iso_date(day)}{_MINUTES[second // 60]}{_SECONDS[second % 60]}{sender.offset_text}",'
        f'"amount":"{scenario.amount}",{sender.constant_fields}{scenario.details if sender.has_details else ""}}}}}\n'
    )
    if emission.form == "malformed":
        pattern, replacement = MALFORMATIONS[(scenario.number + emission.number) % len(MALFORMATIONS)]
        line = pattern.sub(replacement, line, count=1)
    elif emission.form == "conflict":
        line = CONFLICTING_AMOUNT.sub(r"\g<1>1", line, count=1)
    return line.encode()
