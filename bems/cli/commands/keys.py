"""`bems keys`: creates, lists and revokes the API keys of a cell."""

import sys
from pathlib import Path
from typing import Any, get_args

import click
import msgspec

from bems.cli import options
from bems.cli.checked_commands import CheckedGroup
from bems.cli.client import Client, ListPage, decode_as, quote_path
from bems.cli.errors import Failure, UserError
from bems.cli.files import parse_folder
from bems.cli.options import connected
from bems.cli.output import format_time, make_console, pluralize_count, print_json
from bems.cli.table_layout import Column, print_table
from bems.clock import SystemClock
from bems.embedded.api import views
from bems.embedded.api.access import ADMINS
from bems.embedded.api.operations import NewKey
from bems.embedded.api.views import Key
from bems.embedded.auth.keys import KeyRefused, Keys
from bems.embedded.storage.database_files import StoreInUse, StoreUnusable, lock_folder
from bems.embedded.storage.errors import StoreFailed
from bems.tracker.requests import Role

KEY_COLUMNS = (
    Column("Name"),
    Column("Role", 1),
    Column("Id", 2),
    Column("Created (UTC)", 4),
    Column("By", 5),
    Column("Revoked (UTC)", 3),
    Column("Revoked by", 6),
)
ROLES = get_args(Role)
OFFLINE_AUTHOR = "bems keys"
"""Recorded as the creator of a key that is added with --store."""


@click.group(cls=CheckedGroup)
def keys() -> None:
    """List, create and revoke API keys.

    Requires an admin key, or for add the folder of a stopped cell.
    """


@keys.command("list", epilog="Example: bems keys list")
@options.wide
@options.as_json
@connected
def list_(client: Client, wide: bool, as_json: bool) -> None:
    """List all keys, revoked ones too, without their secret text."""
    answer = client.request_json("GET", "/keys", ADMINS)
    known = decode_as(answer, ListPage[Key]).items
    if as_json:
        print_json({"items": answer["items"], "more": False})
        return
    click.echo()
    print_table(make_console(), KEY_COLUMNS, map(_row, known), wide=wide)
    click.echo()
    click.echo(f"{pluralize_count(sum(key.revoked_at is None for key in known), 'active key')}")


@keys.command(epilog="Example: bems keys add sap-ecc --role sender")
@click.argument("name", metavar="NAME")
@click.option("--role", type=click.Choice(ROLES), required=True, help="Role of the key.")
@click.option("--store", "folder", metavar="FOLDER", help="Create the key in the folder of a stopped cell.")
@options.as_json
@connected
def add(client: Client, name: str, role: Role, folder: str | None, as_json: bool) -> None:
    """Create a key and print only its text; it is shown only once.

    A sender sends events; a viewer reads everything; an operator also acts on invoices; an admin may do everything.
    --store needs no key: use it to create the first admin key, or to replace a lost one.
    """
    if folder is None:
        answer = client.request_json("POST", "/keys", ADMINS, body={"name": name, "role": role})
    else:
        answer = msgspec.to_builtins(_add_offline(parse_folder(folder), name, role))
    made = decode_as(answer, NewKey)
    if as_json:
        print_json(answer)
        return
    if sys.stdout.isatty() or sys.stderr.isatty():
        where = "the cell" if folder is None else folder
        click.echo(f"Key {made.key.name}, {made.key.role}, for {where}; it is shown only once:", err=True)
    click.echo(made.text)


@keys.command(epilog="Example: bems keys revoke sap-ecc")
@click.argument("id_or_name", metavar="ID_OR_NAME")
@options.as_json
@connected
def revoke(client: Client, id_or_name: str, as_json: bool) -> None:
    """Revoke a key, by its id or by the name of an active key. A revoked key cannot be restored."""
    known = decode_as(client.request_json("GET", "/keys", ADMINS), ListPage[Key]).items
    found = [key for key in known if key.name == id_or_name and key.revoked_at is None]
    found = found or [key for key in known if key.id == id_or_name]
    if not found:
        raise UserError(f"there is no key {id_or_name}; bems keys list shows them")
    answer = client.request_json("DELETE", f"/keys/{quote_path(found[0].id)}", ADMINS, is_idempotent=True)
    key = decode_as(answer, Key)
    if as_json:
        print_json(answer)
    else:
        click.echo(
            f"{key.name} ({key.id}), {key.role}: revoked at {format_time(key.revoked_at)} UTC by {key.revoked_by}"
        )


def _add_offline(folder: Path, name: str, role: Role) -> NewKey:
    try:
        lock = lock_folder(folder)
    except StoreInUse as refused:
        raise UserError(f"{refused}; --store needs a stopped cell") from refused
    except StoreUnusable as refused:
        raise UserError(str(refused)) from refused
    try:
        store = Keys(folder)
        try:
            key, text = store.add(name, role, OFFLINE_AUTHOR, SystemClock().now())
        finally:
            store.close()
    except (StoreUnusable, KeyRefused) as refused:
        raise UserError(str(refused)) from refused
    except StoreFailed as failed:
        raise Failure(str(failed)) from failed
    finally:
        lock.close()
    return NewKey(views.view_key(key), text)


def _row(key: Key) -> tuple[Any, ...]:
    revoked = (format_time(key.revoked_at), key.revoked_by or "-") if key.revoked_at else ("-", "-")
    return key.name, key.role, key.id, format_time(key.created_at), key.created_by, *revoked
