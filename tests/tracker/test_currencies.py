import pytest
from iso4217 import Currency

from bems.tracker.currencies import MINOR_UNITS, WITHDRAWN, WITHOUT_MINOR_UNIT


def test_every_current_code_has_the_decimals_that_iso_4217_gives_it() -> None:
    current = {code: decimals for code, decimals in MINOR_UNITS.items() if code not in WITHDRAWN}
    assert current == {currency.code: currency.exponent for currency in Currency if currency.exponent is not None}


def test_codes_without_a_minor_unit_are_not_accepted() -> None:
    assert {currency.code for currency in Currency if currency.exponent is None} == WITHOUT_MINOR_UNIT
    assert not WITHOUT_MINOR_UNIT & MINOR_UNITS.keys()


def test_withdrawn_codes_are_not_current() -> None:
    assert not WITHDRAWN.keys() & {currency.code for currency in Currency}


@pytest.mark.parametrize(("code", "decimals"), [("EUR", 2), ("JPY", 0), ("BHD", 3), ("CLF", 4), ("BGN", 2), ("UGX", 0)])
def test_well_known_codes(code: str, decimals: int) -> None:
    assert MINOR_UNITS[code] == decimals
