"""Currencies: ISO 4217 codes and the number of decimals of an amount in each (the minor unit).

Source: ISO 4217 list one (current currencies and funds) of 2026-01-01, and list three (historic) for `WITHDRAWN`.

Funds codes with a minor unit (CLF, UYW, CHE, USN, ...) are accepted, because some invoices are indexed in them. Codes
without a minor unit are refused: the number of decimals is undefined, and nothing is payable in them. These are metals
(XAU, XAG, XPD, XPT), units of account (XBA to XBD, XDR, XSU, XUA), testing (XTS) and no currency (XXX).
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
"""Decimals of codes withdrawn in the last ten years, which open invoices, credit notes and past events still use."""

MINOR_UNITS: dict[str, int] = {
    code: decimals for decimals, codes in _BY_DECIMALS.items() for code in codes.split()
} | WITHDRAWN
"""Decimals by code: EUR 2, JPY 0, BHD 3, CLF 4."""

WITHOUT_MINOR_UNIT = frozenset(
    {"XAG", "XAU", "XBA", "XBB", "XBC", "XBD", "XDR", "XPD", "XPT", "XSU", "XTS", "XUA", "XXX"}
)
"""ISO 4217 codes that are not accepted."""


def render_amount(amount: Decimal, currency: str) -> str:
    """Return the amount as plain decimal text with the currency's number of decimals, such as `-1250.00`."""
    return f"{amount:.{MINOR_UNITS[currency]}f}"
