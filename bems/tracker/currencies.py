"""Currencies: ISO 4217 codes and how many decimals an amount in each may have (its minor unit).

Source: ISO 4217 list one (current currencies and funds) of 2026-01-01, and list three (historic) for the few below.

Funds codes with a minor unit (CLF, UYW, CHE, USN, ...) are accepted: invoices are indexed in some of them. Codes
without a minor unit are not, because no rule could say how many decimals are right and nothing is payable in them:
metals (XAU, XAG, XPD, XPT), units of account (XBA to XBD, XDR, XSU, XUA), testing (XTS) and no currency (XXX).
"""

from decimal import Decimal

_BY_DECIMALS = {
    0: """
    BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF
    """,
    2: """
    AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW
    CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF
    IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK
    MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP
    SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST XAD XCD XCG
    YER ZAR ZMW ZWG
    """,
    3: """
    BHD IQD JOD KWD LYD OMR TND
    """,
    4: """
    CLF UYW
    """,
}

WITHDRAWN: dict[str, int] = {
    "ANG": 2,
    "BGN": 2,
    "BYR": 0,
    "CUC": 2,
    "HRK": 2,
    "MRO": 2,
    "SLL": 2,
    "STD": 2,
    "VEF": 2,
    "ZWL": 2,
}
"""Withdrawn in the last ten years: still on open invoices, on late credit notes, and in the events of former years."""

MINOR_UNITS: dict[str, int] = {
    code: decimals for decimals, codes in _BY_DECIMALS.items() for code in codes.split()
} | WITHDRAWN
"""Decimals by code: EUR 2, JPY 0, BHD 3, CLF 4."""

WITHOUT_MINOR_UNIT = frozenset(
    {"XAG", "XAU", "XBA", "XBB", "XBC", "XBD", "XDR", "XPD", "XPT", "XSU", "XTS", "XUA", "XXX"}
)
"""In ISO 4217, but not accepted."""


def render_amount(amount: Decimal, currency: str) -> str:
    """A plain decimal in text, such as `-1250.00`, with as many decimals as the currency has."""
    return f"{amount:.{MINOR_UNITS[currency]}f}"
