"""Roles of operations, and keys over the API."""

import hmac
from collections.abc import Callable

import pytest

from bems.embedded.api.openapi import build_document
from bems.tracker.requests import Role
from tests.embedded.api.calls import ROLES, SECRETS, Cell, encode_request, event_body, send_raw

SENDERS, VIEWERS, OPERATORS, ADMINS = (
    {"sender", "admin"},
    {"viewer", "operator", "admin"},
    {"operator", "admin"},
    {"admin"},
)
MATRIX: dict[tuple[str, str], set[str]] = {
    ("POST", "/invoices/ingestion"): SENDERS,
    ("POST", "/invoices/ingestion/batch"): SENDERS,
    ("POST", "/invoices/authorization"): SENDERS,
    ("POST", "/invoices/authorization/batch"): SENDERS,
    ("POST", "/invoices/reconciliation"): SENDERS,
    ("POST", "/invoices/reconciliation/batch"): SENDERS,
    ("POST", "/invoices/posting"): SENDERS,
    ("POST", "/invoices/posting/batch"): SENDERS,
    ("GET", "/invoices"): VIEWERS,
    ("HEAD", "/invoices"): VIEWERS,
    ("GET", "/invoices/{target}"): VIEWERS,
    ("GET", "/invoices/{target}/events"): VIEWERS,
    ("GET", "/totals"): VIEWERS,
    ("GET", "/invoices/ingestion"): VIEWERS,
    ("GET", "/invoices/ingestion/batch"): VIEWERS,
    ("GET", "/executions/{target}/history"): VIEWERS,
    ("GET", "/alerts"): VIEWERS,
    ("GET", "/commands"): VIEWERS,
    ("POST", "/commands"): OPERATORS,
    ("POST", "/commands/{target}/confirmation"): OPERATORS,
    ("GET", "/dead-letters"): OPERATORS,
    ("POST", "/dead-letters/redrive"): OPERATORS,
    ("GET", "/deliveries"): VIEWERS,
    ("POST", "/deliveries/retry"): OPERATORS,
    ("GET", "/check"): VIEWERS,
    ("GET", "/control-totals"): VIEWERS,
    ("POST", "/control-totals"): SENDERS | OPERATORS,
    ("GET", "/events"): VIEWERS,
    ("POST", "/events/lookup"): VIEWERS,
    ("GET", "/policy"): VIEWERS,
    ("GET", "/policies"): VIEWERS,
    ("GET", "/dashboards"): VIEWERS,
    ("GET", "/dashboards/{target}"): VIEWERS,
    ("GET", "/metrics"): VIEWERS,
    ("GET", "/keys"): ADMINS,
    ("POST", "/keys"): ADMINS,
    ("DELETE", "/keys/{target}"): ADMINS,
}
OPEN = {("GET", "/healthz"), ("GET", "/openapi.json")}


def test_the_matrix_contains_every_operation() -> None:
    described = {(method.upper(), path) for path, methods in build_document()["paths"].items() for method in methods}
    aliases = {(method, path) for method, path in described if method == "GET" and path.startswith("/invoices/")}
    assert described - aliases <= MATRIX.keys() | OPEN
    assert {path for _, path in aliases} - {"/invoices/{target}", "/invoices/{target}/events"} == {
        path for method, path in MATRIX if method == "POST" and path.startswith("/invoices/")
    }


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("method", "path"), MATRIX)
def test_each_role_is_allowed_exactly_its_operations(cell: Cell, method: str, path: str, role: Role) -> None:
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
"""Functions that build an invalid key from the id and secret of a valid key, and the secret of another one."""


def foreign(cell: Cell, name: str) -> str | None:
    _, id, secret = cell.keys["admin"].split("_", 2)
    return FOREIGN[name](id, secret, cell.keys["viewer"].split("_", 2)[2])


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/invoices/ingestion"), ("GET", "/invoices"), ("GET", "/metrics")]
)
def test_a_wrong_key_gets_the_same_response_as_no_key(cell: Cell, method: str, path: str, name: str) -> None:
    body = event_body("ingestion") if method == "POST" else None
    reply = cell.ask_with(foreign(cell, name), method, path, body)
    assert (reply.status, reply.faults) == (403, {})
    assert reply.body == cell.ask_with(None, "GET", "/keys").body, "the response does not say what is wrong"


def test_two_keys_in_one_request_are_refused(cell: Cell) -> None:
    for one, other in (("", cell.keys["admin"]), (cell.keys["admin"], "wrong"), (cell.keys["admin"],) * 2):
        look = encode_request("GET", "/check", one, f"x-api-key: {other}")
        send = encode_request("POST", "/invoices/posting", one, f"X-API-Key: {other}", body=b"{}")
        assert [reply.status for reply in send_raw(cell.port, look, send, answers=2)] == [403, 403]


def test_health_and_openapi_need_no_key(cell: Cell) -> None:
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


def test_a_revoked_key_stops_at_once_and_after_a_restart(make_cell: Callable[..., Cell]) -> None:
    cell = make_cell()
    id = cell.keys["sender"].split("_")[1]
    assert cell.send("ingestion").status == 202
    revoked = cell.ask("DELETE", f"/keys/{id}")
    assert (revoked.status, revoked.content["revoked_by"]) == (200, "admin")
    assert revoked.content["revoked_at"] == "2026-03-02T09:00:00Z"
    assert cell.send("ingestion").status == 403
    assert cell.ask("DELETE", f"/keys/{id}").content == revoked.content, "the first revocation is kept"
    again = make_cell()
    assert again.ask_with(cell.keys["sender"], "POST", "/invoices/ingestion", event_body("ingestion")).status == 403
    listed = again.ask_with(cell.keys["admin"], "GET", "/keys").content["items"]
    assert revoked.content in listed


def test_the_last_admin_cannot_be_revoked(own_cell: Cell) -> None:
    id = own_cell.keys["admin"].split("_")[1]
    reply = own_cell.ask("DELETE", f"/keys/{id}")
    assert (reply.status, reply.faults) == (409, {})
    _, second = own_cell.add_key("second", "admin")
    assert own_cell.ask_with(second, "DELETE", f"/keys/{id}").status == 200
    assert own_cell.ask("GET", "/keys").status == 403
    assert own_cell.ask_with(second, "DELETE", f"/keys/{second.split('_')[1]}").status == 409


def test_a_key_name_is_unique_among_keys_in_force(cell: Cell) -> None:
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
def test_an_invalid_key_request_is_refused_with_every_fault(cell: Cell, body: object, pointers: set[str]) -> None:
    reply = cell.ask("POST", "/keys", body)
    assert (reply.status, reply.pointers) == (400, pointers)


def test_revoking_an_unknown_key_returns_404(cell: Cell) -> None:
    for target in ("00000000", "", "%00", "a/b"):
        assert cell.ask("DELETE", f"/keys/{target}").status == 404


def test_a_write_error_of_the_key_file_returns_503(cell: Cell) -> None:
    connection = cell.service.keys._connection
    connection.execute("PRAGMA query_only = on")
    for method, path, body in (
        ("POST", "/keys", {"name": "unlucky", "role": "viewer"}),
        ("DELETE", f"/keys/{cell.keys['viewer'].split('_')[1]}", None),
    ):
        reply = cell.ask(method, path, body)
        assert (reply.status, reply.faults, reply.headers["retry-after"]) == (503, {}, "5")
    connection.execute("PRAGMA query_only = off")
    assert cell.ask("GET", "/check", role="viewer").status == 200, "the key is still in force"
    assert not any(key["name"] == "unlucky" for key in cell.get("/keys")["items"])


def test_no_file_contains_the_text_of_a_key(make_cell: Callable[..., Cell]) -> None:
    cell = make_cell()
    text = cell.ask("POST", "/keys", {"name": "erp", "role": "sender"}).content["text"]
    SECRETS.add(text.split("_", 2)[2])
    assert cell.ask_with(text, "POST", "/invoices/ingestion", event_body("ingestion")).status == 202
    assert cell.ask_with(text, "POST", "/invoices/ingestion", b"{}").status == 400
    command = {"verb": "park", "command_id": "1", "invoice_id": "INV-1", "note": "x"}
    assert cell.ask("POST", "/commands", command).status == 200
    secrets = [key.split("_", 2)[2].encode() for key in (*cell.keys.values(), text)]

    def found() -> list[str]:
        files = {path.name: path.read_bytes() for path in cell.folder.rglob("*") if path.is_file()}
        assert b"erp" in files["keys.db"] + files.get("keys.db-wal", b""), "the search covers the key file"
        return [name for name, content in files.items() for secret in secrets if secret in content]

    assert found() == []
    cell.service.stop()
    assert found() == []


def test_keys_are_compared_in_constant_time(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest

    def record(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return bool(compare(one, other))

    monkeypatch.setattr("bems.embedded.auth.keys.hmac.compare_digest", record)
    for name in ("malformed", "unknown", "wrong secret"):
        cell.ask_with(foreign(cell, name), "GET", "/check")
    cell.get("/check")
    assert len(compared) == 4, "each key is compared, even an unknown one"
    assert {len(side) for pair in compared for side in pair} == {32}
