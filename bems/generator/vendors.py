"""Vendors of a generated log: a few hundred, a few of which are large.

The table below fixes each country's share of the volume; its vendors depend on the seed.
"""

import json
from itertools import accumulate
from random import Random

from msgspec import Struct

from bems.tracker.calendars import SATURDAY_AND_SUNDAY
from bems.tracker.contract import STAGES, Stage
from bems.tracker.currencies import MINOR_UNITS

VENDOR_COUNT = 300

# A vendor's volume is proportional to 1 / (rank + ZIPF_OFFSET), with ranks from 0. The first vendor has a tenth of the
# total volume, the first ten have two fifths.
ZIPF_OFFSET = 2

# Tiers of vendors up to a rank, which is a share of all vendors; one of the tiers is drawn.
TIERS = (
    (0.1, ("gold", "gold", "silver")),
    (0.3, ("gold", "silver", "silver", "standard", "standard")),
    (1.0, ("silver", "standard", "standard", "standard", "standard")),
)

TERMS_DAYS = (14, 30, 30, 30, 45, 60, 60, 90)
TERMS_STYLES = ("days", "days", "days", "days", "days", "days", "both", "both", "due_date", "none")

FRIDAY_AND_SATURDAY = frozenset({4, 5})

HOUR_SECONDS = 3600


class SourceSystem(Struct, frozen=True):
    """A program that sends events.

    `prefix`           prefix of its event ids.
    `utc_suffix`       suffix of its UTC timestamps, or None if it writes local time with an offset.
    `escapes_unicode`  whether it escapes non-ASCII characters in JSON.
    """

    name: str
    prefix: str
    utc_suffix: str | None = None
    escapes_unicode: bool = False


class SourceRegion(Struct, frozen=True):
    """A cloud region of the senders. Approvals come from `workflow`, all other events from `ledger`."""

    cloud: str
    account: str
    ledger: SourceSystem
    workflow: SourceSystem
    weekend: frozenset[int] = SATURDAY_AND_SUNDAY


class CountryProfile(Struct, frozen=True):
    """A country with its share of the volume in percent.

    `per_euro` is the number of currency units per euro. `utc_hours` is the offset in winter and used all year, so that
    a log does not depend on the installed time zone database. `families`, `trades` and `forms` make vendor names.
    """

    code: str
    share: int
    region: SourceRegion
    currency: str
    per_euro: float
    utc_hours: int
    families: tuple[str, ...]
    trades: tuple[str, ...]
    forms: tuple[str, ...]


class VendorSender(Struct, frozen=True, gc=False):
    """The common parts of all events of one vendor and stage.

    `constant_fields`  JSON of currency, vendor and source.
    `shift_seconds`    difference of the written time from local time.
    `offset_text`      suffix of the written time.
    `has_details`      whether payment terms and attributes are included; approval systems do not know them.
    """

    prefix: str
    constant_fields: str
    shift_seconds: int
    offset_text: str
    has_details: bool


class VendorProfile(Struct, frozen=True):
    """A vendor. `minor_per_euro` is the number of the currency's minor units per euro; `utc_offset` is in seconds."""

    id: str
    country: str
    currency: str
    tier: str
    decimals: int
    minor_per_euro: float
    utc_offset: int
    weekend: frozenset[int]
    terms_days: int
    terms_style: str
    cost_center: str
    senders: dict[Stage, VendorSender]


_SAP_ECC = SourceSystem("sap-ecc", "IDOC")
_S4HANA = SourceSystem("sap-s4hana", "S4")
_FUSION = SourceSystem("oracle-fusion", "OFC", utc_suffix=".000+00:00")
_EBS = SourceSystem("oracle-ebs", "EBS")
_COUPA = SourceSystem("coupa", "CP", utc_suffix="Z")
_CONCUR = SourceSystem("concur", "cnqr", utc_suffix="Z")
_ARIBA = SourceSystem("ariba", "AN", utc_suffix="Z", escapes_unicode=True)

_EUROPE = SourceRegion("eu-west-1", "210987654321", _SAP_ECC, _CONCUR)
_BRITAIN = SourceRegion("eu-west-2", "210987654322", _FUSION, _COUPA)
_AMERICA = SourceRegion("us-east-1", "210987654323", _FUSION, _COUPA)
_ASIA = SourceRegion("ap-northeast-1", "210987654324", _S4HANA, _ARIBA)
_GULF = SourceRegion("me-south-1", "210987654325", _EBS, _CONCUR, FRIDAY_AND_SATURDAY)

_GERMAN = (
    ("Bergmann", "Krüger", "Vogt", "Lindner", "Schäfer", "Hartmann", "Böhm", "Seidel"),
    ("Logistik", "Maschinenbau", "Bürobedarf", "Verpackung", "Elektrotechnik", "Gebäudereinigung"),
)
_FRENCH = (
    ("Lefèvre", "Moreau", "Girard", "Chevalier", "Bélanger", "Dupont", "Garnier"),
    ("Transports", "Emballages", "Services", "Mécanique", "Fournitures", "Énergie"),
)
_ENGLISH = (
    ("Harper", "Whitfield", "Ashdown", "O'Neill", "Sterling", "Brookes", "Calloway", "Mercer"),
    ("Freight", "Packaging", "Office Supplies", "Engineering", "Facilities", "Software", "Consulting"),
)
_GULF_WORDS = (
    ("Al Manara", "Al Noor", "Gulf Star", "Dar Al Salam", "Al Bahar", "Pearl"),
    ("Trading", "Contracting", "Logistics", "Petroleum Services", "Catering"),
)

COUNTRIES = (
    CountryProfile("DE", 23, _EUROPE, "EUR", 1.0, 1, *_GERMAN, ("GmbH", "GmbH & Co. KG", "AG")),
    CountryProfile("US", 19, _AMERICA, "USD", 1.1, -5, *_ENGLISH, ("Inc.", "LLC", "Corp.")),
    CountryProfile(
        "NL", 12, _EUROPE, "EUR", 1.0, 1, ("De Vries", "Van Dijk", "Bakker", "Visser", "Smit", "Meijer"),
        ("Transport", "Techniek", "Kantoor", "Verpakkingen", "Schoonmaak", "Advies"), ("B.V.", "N.V."),
    ),
    CountryProfile("GB", 11, _BRITAIN, "GBP", 0.85, 0, *_ENGLISH, ("Ltd", "plc", "& Sons Ltd")),
    CountryProfile("FR", 9, _EUROPE, "EUR", 1.0, 1, *_FRENCH, ("SARL", "SAS", "SA")),
    CountryProfile(
        "JP", 7, _ASIA, "JPY", 160.0, 9, ("山田", "東海", "佐藤", "日進", "北陸", "大和"),
        ("製作所", "物流", "電機", "商事", "工業"), ("株式会社", "有限会社"),
    ),
    CountryProfile("CH", 5, _EUROPE, "CHF", 0.95, 1, *_GERMAN, ("AG", "GmbH")),
    CountryProfile(
        "ES", 4, _EUROPE, "EUR", 1.0, 1, ("García", "Ibáñez", "Muñoz", "Ortega", "Núñez"),
        ("Transportes", "Suministros", "Ingeniería", "Limpiezas"), ("S.L.", "S.A."),
    ),
    CountryProfile(
        "PL", 3, _EUROPE, "PLN", 4.3, 1, ("Kowalski", "Wójcik", "Zieliński", "Dąbrowski"),
        ("Transport", "Opakowania", "Serwis", "Budownictwo"), ("Sp. z o.o.", "S.A."),
    ),
    CountryProfile("KW", 3, _GULF, "KWD", 0.33, 3, *_GULF_WORDS, ("W.L.L.", "K.S.C.")),
    CountryProfile("BH", 2, _GULF, "BHD", 0.41, 3, *_GULF_WORDS, ("W.L.L.", "B.S.C.")),
    CountryProfile(
        "SG", 2, _ASIA, "SGD", 1.45, 8, ("Tan", "Lim", "Merlion", "Straits", "Orchid"),
        ("Marine", "Electronics", "Logistics", "Supplies"), ("Pte. Ltd.",),
    ),
)  # fmt: skip


def make_vendors(seed: int) -> list[VendorProfile]:
    """Return the vendors of a seed, the largest first."""
    random = Random(f"suppliers {seed}")
    assigned = dict.fromkeys(range(len(COUNTRIES)), 0.0)
    total, vendors = 0.0, []
    for rank in range(VENDOR_COUNT):
        volume = 1 / (rank + ZIPF_OFFSET)
        total += volume
        # Choose the country that is furthest below its share. A random choice could give an eighth of the volume to the
        # smallest country.
        place = max(assigned, key=lambda index: COUNTRIES[index].share * total / 100 - assigned[index])
        assigned[place] += volume
        vendors.append(_make_vendor(rank, COUNTRIES[place], random))
    return vendors


def cumulative_volumes() -> list[float]:
    """Return the cumulative volumes of the vendors by rank."""
    return list(accumulate(1 / (rank + ZIPF_OFFSET) for rank in range(VENDOR_COUNT)))


def _pick(random: Random, choices: tuple[str, ...]) -> str:
    return choices[int(random.random() * len(choices))]


def _make_vendor(rank: int, country: CountryProfile, random: Random) -> VendorProfile:
    tier = _pick(random, next(tiers for share, tiers in TIERS if rank < share * VENDOR_COUNT))
    words = [_pick(random, country.families), _pick(random, country.trades), _pick(random, country.forms)]
    vendor = {
        "id": f"V-{10_000 + rank * 7}",
        "name": "".join(words) if country.code == "JP" else " ".join(words),
        "country": country.code,
        "tier": tier,
    }
    decimals = MINOR_UNITS[country.currency]
    return VendorProfile(
        id=vendor["id"],
        country=country.code,
        currency=country.currency,
        tier=tier,
        decimals=decimals,
        minor_per_euro=country.per_euro * 10**decimals,
        utc_offset=country.utc_hours * HOUR_SECONDS,
        weekend=country.region.weekend,
        terms_days=TERMS_DAYS[int(random.random() * len(TERMS_DAYS))],
        terms_style=_pick(random, TERMS_STYLES),
        cost_center=f"{country.code}-{1000 + 10 * int(random.random() * 60)}",
        senders={stage: _make_sender(country, vendor, stage) for stage in STAGES},
    )


def _make_sender(country: CountryProfile, vendor: dict[str, str], stage: Stage) -> VendorSender:
    region, detailed = country.region, stage != "authorization"
    system = region.ledger if detailed else region.workflow
    source = {"system": system.name, "region": region.cloud, "account_id": region.account}
    constant = {"currency": country.currency, "vendor": vendor, "source": source}
    text = json.dumps(constant, ensure_ascii=system.escapes_unicode, separators=(",", ":"))
    offset = f"{country.utc_hours:+03}:00"
    shift = -country.utc_hours * HOUR_SECONDS if system.utc_suffix else 0
    return VendorSender(system.prefix, text[1:-1], shift, system.utc_suffix or offset, detailed)
