"""Who may ask what, and keys over the API."""

import hmac
from collections.abc import Callable

import pytest

from bems.embedded.api.openapi import build_document
from bems.tracker.requests import Role
from tests.embedded.api.calls import ROLES, SECRETS, Cell, encode_request, event_body, send_raw

SEND, LOOK, ACT, ADMINISTER = {"sender", "admin"}, {"viewer", "operator", "admin"}, {"operator", "admin"}, {"admin"}
MATRIX: dict[tuple[str, str], set[str]] = {
    ("POST", "/invoices/ingestion"): SEND,
    ("POST", "/invoices/ingestion/batch"): SEND,
    ("POST", "/invoices/authorization"): SEND,
    ("POST", "/invoices/authorization/batch"): SEND,
    ("POST", "/invoices/reconciliation"): SEND,
    ("POST", "/invoices/reconciliation/batch"): SEND,
    ("POST", "/invoices/posting"): SEND,
    ("POST", "/invoices/posting/batch"): SEND,
    ("GET", "/invoices"): LOOK,
    ("HEAD", "/invoices"): LOOK,
    ("GET", "/invoices/{target}"): LOOK,
    ("GET", "/invoices/{target}/events"): LOOK,
    ("GET", "/totals"): LOOK,
    ("GET", "/invoices/ingestion"): LOOK,
    ("GET", "/invoices/ingestion/batch"): LOOK,
    ("GET", "/executions/{target}/history"): LOOK,
    ("GET", "/alerts"): LOOK,
    ("GET", "/commands"): LOOK,
    ("POST", "/commands"): ACT,
    ("GET", "/dead-letters"): ACT,
    ("POST", "/dead-letters/redrive"): ACT,
    ("GET", "/deliveries"): LOOK,
    ("POST", "/deliveries/retry"): ACT,
    ("GET", "/check"): LOOK,
    ("GET", "/policy"): LOOK,
    ("GET", "/policies"): LOOK,
    ("GET", "/dashboards"): LOOK,
    ("GET", "/dashboards/{target}"): LOOK,
    ("GET", "/metrics"): LOOK,
    ("GET", "/keys"): ADMINISTER,
    ("POST", "/keys"): ADMINISTER,
    ("DELETE", "/keys/{target}"): ADMINISTER,
}
OPEN = {("GET", "/healthz"), ("GET", "/openapi.json")}


def test_every_operation_is_in_the_table() -> None:
    described = {(method.upper(), path) for path, methods in build_document()["paths"].items() for method in methods}
    aliases = {(method, path) for method, path in described if method == "GET" and path.startswith("/invoices/")}
    assert described - aliases <= MATRIX.keys() | OPEN
    assert {path for _, path in aliases} - {"/invoices/{target}", "/invoices/{target}/events"} == {
        path for method, path in MATRIX if method == "POST" and path.startswith("/invoices/")
    }


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("method", "path"), MATRIX)
def test_a_role_may_what_it_may(cell: Cell, method: str, path: str, role: Role) -> None:
    body: object = {} if method == "POST" else None
    reply = cell.ask(method, path.replace("{target}", "none"), body, role)
    if role in MATRIX[method, path]:
        assert reply.status in (200, 400, 404)
    else:
        assert reply.status == 403
        assert method == "HEAD" or reply.faults == {}


FOREIGN: dict[str, Callable[[str, str, str], str | None]] = {
    "none": lambda *_: None,
    "empty": lambda *_: "",
    "malformed": lambda *_: "hunter2",
    "unknown": lambda _, secret, __: f"bems_00000000_{secret}",
    "wrong secret": lambda id, secret, _: f"bems_{id}_{secret[:-1]}{'A' if secret[-1] != 'A' else 'Q'}",
    "another's secret": lambda id, _, other: f"bems_{id}_{other}",
    "too long": lambda id, secret, _: f"bems_{id}_{secret}A",
    "too short": lambda id, secret, _: f"bems_{id}_{secret[:-1]}",
    "spaced": lambda id, secret, _: f"bems_{id}_ {secret}",
    "in capitals": lambda id, secret, _: f"BEMS_{id}_{secret}",
    "latin-1": lambda *_: "\u00ff" * 57,
    "a hash": lambda *_: "0" * 64,
    "long": lambda *_: "bems_" + "a" * 60_000,
}
"""Keys that are none, made of the id and the secret of a right one and another one's secret."""


def foreign(cell: Cell, name: str) -> str | None:
    _, id, secret = cell.keys["admin"].split("_", 2)
    return FOREIGN[name](id, secret, cell.keys["viewer"].split("_", 2)[2])


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/invoices/ingestion"), ("GET", "/invoices"), ("GET", "/metrics")]
)
def test_a_wrong_key_is_as_good_as_none(cell: Cell, method: str, path: str, name: str) -> None:
    body = event_body("ingestion") if method == "POST" else None
    reply = cell.ask_with(foreign(cell, name), method, path, body)
    assert (reply.status, reply.faults) == (403, {})
    assert reply.body == cell.ask_with(None, "GET", "/keys").body, "it does not say what was wrong"


def test_of_two_keys_none_is_chosen(cell: Cell) -> None:
    for one, other in (("", cell.keys["admin"]), (cell.keys["admin"], "wrong"), (cell.keys["admin"],) * 2):
        look = encode_request("GET", "/check", one, f"x-api-key: {other}")
        send = encode_request("POST", "/invoices/posting", one, f"X-API-Key: {other}", body=b"{}")
        assert [reply.status for reply in send_raw(cell.port, look, send, answers=2)] == [403, 403]


def test_everyone_may_ask_how_the_cell_is_and_what_it_does(cell: Cell) -> None:
    for path in ("/healthz", "/openapi.json"):
        for key in (None, "wrong", *cell.keys.values()):
            assert cell.ask_with(key, "GET", path).status == 200


# -- keys


def test_a_key_is_shown_once(cell: Cell) -> None:
    made = cell.ask("POST", "/keys", {"name": "erp", "role": "sender"})
    assert made.status == 201
    text = made.content["text"]
    SECRETS.add(text.split("_", 2)[2])
    assert cell.ask_with(text, "POST", "/invoices/ingestion", event_body("ingestion")).status == 202
    listed = cell.ask("GET", "/keys")
    assert text.split("_", 2)[2].encode() not in listed.body
    assert made.content["key"] in listed.content["items"]
    assert made.content["key"] == {
        "id": text.split("_")[1],
        "name": "erp",
        "role": "sender",
        "created_at": "2026-03-02T09:00:00Z",
        "created_by": "admin",
        "revoked_at": None,
        "revoked_by": None,
    }


def test_a_revoked_key_stops_at_once_and_after_a_restart(make: Callable[..., Cell]) -> None:
    cell = make()
    id = cell.keys["sender"].split("_")[1]
    assert cell.send("ingestion").status == 202
    revoked = cell.ask("DELETE", f"/keys/{id}")
    assert (revoked.status, revoked.content["revoked_by"]) == (200, "admin")
    assert revoked.content["revoked_at"] == "2026-03-02T09:00:00Z"
    assert cell.send("ingestion").status == 403
    assert cell.ask("DELETE", f"/keys/{id}").content == revoked.content, "who and when stays"
    again = make()
    assert again.ask_with(cell.keys["sender"], "POST", "/invoices/ingestion", event_body("ingestion")).status == 403
    listed = again.ask_with(cell.keys["admin"], "GET", "/keys").content["items"]
    assert revoked.content in listed


def test_the_last_admin_cannot_be_revoked(own: Cell) -> None:
    id = own.keys["admin"].split("_")[1]
    reply = own.ask("DELETE", f"/keys/{id}")
    assert (reply.status, reply.faults) == (409, {})
    _, second = own.add_key("second", "admin")
    assert own.ask_with(second, "DELETE", f"/keys/{id}").status == 200
    assert own.ask("GET", "/keys").status == 403
    assert own.ask_with(second, "DELETE", f"/keys/{second.split('_')[1]}").status == 409


def test_a_name_is_given_once_at_a_time(cell: Cell) -> None:
    first = cell.ask("POST", "/keys", {"name": "again", "role": "viewer"})
    refused = cell.ask("POST", "/keys", {"name": "again", "role": "sender"})
    assert (refused.status, refused.faults) == (409, {})
    cell.ask("DELETE", f"/keys/{first.content['key']['id']}")
    second = cell.ask("POST", "/keys", {"name": "again", "role": "sender"})
    assert second.status == 201
    SECRETS.update(made.content["text"].split("_", 2)[2] for made in (first, second))


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, {"/name", "/role"}),
        ({"name": "a b", "role": "root", "more": 1}, {"/name", "/role", "/more"}),
        ({"name": "x" * 65, "role": "admin"}, {"/name"}),
        ([], {""}),
    ],
)
def test_a_key_that_cannot_be_is_refused_with_every_fault(cell: Cell, body: object, pointers: set[str]) -> None:
    reply = cell.ask("POST", "/keys", body)
    assert (reply.status, reply.pointers) == (400, pointers)


def test_there_is_no_such_key(cell: Cell) -> None:
    for target in ("00000000", "", "%00", "a/b"):
        assert cell.ask("DELETE", f"/keys/{target}").status == 404


def test_the_file_of_the_keys_may_fail(cell: Cell) -> None:
    connection = cell.service.keys._connection
    connection.execute("PRAGMA query_only = on")
    for method, path, body in (
        ("POST", "/keys", {"name": "unlucky", "role": "viewer"}),
        ("DELETE", f"/keys/{cell.keys['viewer'].split('_')[1]}", None),
    ):
        reply = cell.ask(method, path, body)
        assert (reply.status, reply.faults, reply.headers["retry-after"]) == (503, {}, "5")
    connection.execute("PRAGMA query_only = off")
    assert cell.ask("GET", "/check", role="viewer").status == 200, "it is in force still"
    assert not any(key["name"] == "unlucky" for key in cell.get("/keys")["items"])


def test_the_texts_of_keys_are_in_no_file(make: Callable[..., Cell]) -> None:
    cell = make()
    text = cell.ask("POST", "/keys", {"name": "erp", "role": "sender"}).content["text"]
    SECRETS.add(text.split("_", 2)[2])
    assert cell.ask_with(text, "POST", "/invoices/ingestion", event_body("ingestion")).status == 202
    assert cell.ask_with(text, "POST", "/invoices/ingestion", b"{}").status == 400
    command = {"verb": "park", "command_id": "1", "invoice_id": "INV-1"}
    assert cell.ask("POST", "/commands", command).status == 200
    secrets = [key.split("_", 2)[2].encode() for key in (*cell.keys.values(), text)]

    def found() -> list[str]:
        files = {path.name: path.read_bytes() for path in cell.folder.rglob("*") if path.is_file()}
        assert b"erp" in files["keys.db"] + files.get("keys.db-wal", b""), "it is looked where keys are"
        return [name for name, content in files.items() for secret in secrets if secret in content]

    assert found() == []
    cell.service.stop()
    assert found() == []


def test_keys_are_compared_in_constant_time(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest

    def kept(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return bool(compare(one, other))

    monkeypatch.setattr("bems.embedded.auth.keys.hmac.compare_digest", kept)
    for name in ("malformed", "unknown", "wrong secret"):
        cell.ask_with(foreign(cell, name), "GET", "/check")
    cell.get("/check")
    assert len(compared) == 4, "whatever is known of the key"
    assert {len(side) for pair in compared for side in pair} == {32}
