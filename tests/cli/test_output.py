"""Output to a terminal has no control characters, whatever senders wrote."""

import json

import pytest

from bems.cli.client import Client, ListResult
from bems.cli.files import TimeParam
from bems.cli.listing import ItemTable, Listing
from bems.cli.output import print_json, vendor_label
from bems.cli.table_layout import Column
from bems.tracker.contract import Vendor
from bems.tracker.instants import parse

HOSTILE = "Acme\x1b[2J\x7f\x85\x9b31m\u202e\u2066\u2028 Ünï 😀"


def test_json_escapes_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({HOSTILE: [HOSTILE]})
    shown = capsys.readouterr().out
    assert shown.removesuffix("\n").isprintable()
    assert "Ünï 😀" in shown
    assert json.loads(shown) == {HOSTILE: [HOSTILE]}


def test_tables_have_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    table = ItemTable(list[str], "invoice", [Column("Invoice"), Column("Vendor")], lambda vendor: ("INV/1", vendor))
    listing = Listing(Client("http://127.0.0.1"), limit=1, wide=False, as_json=False)
    listing.print_items(ListResult([HOSTILE], more=False), table)
    shown = capsys.readouterr().out
    assert all(line.isprintable() for line in shown.split("\n"))
    assert "Ünï 😀" in shown


def test_vendor_names_have_no_control_characters() -> None:
    assert vendor_label(Vendor("V", HOSTILE)).isprintable()


def test_a_leap_second_is_read_as_the_second_before() -> None:
    read = TimeParam().convert("2016-12-31T23:59:60Z", None, None)
    assert read == parse("2016-12-31T23:59:59Z")
