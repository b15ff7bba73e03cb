"""Recognizes files that are not event logs and lines that are not events, and says how to fix them."""

import msgspec

from bems.cli.http_errors import to_one_line
from bems.tracker.contract import STAGES, STATUSES

EXPECTED_LOG_FORMAT = 'write one JSON object per line, {"stage": ..., "event": {...}}, as docs/contract.md describes it'

ZIP, OLE, PDF, PARQUET, ZSTD = b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"%PDF-", b"PAR1", b"\x28\xb5\x2f\xfd"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
MIN_DELIMITERS = 2
"""Minimum number of delimiters in a line that is reported as CSV."""

MAX_SHOWN_CHARACTERS = 200

_STAGE_OF = {status: stage for stage, statuses in STATUSES.items() for status in statuses}


def diagnose_file(head: bytes, instead: str = EXPECTED_LOG_FORMAT) -> str | None:
    """Return what a file with this beginning is and what to do instead; None if it may be text in UTF-8."""
    if head.startswith(ZIP):
        kind = "an Excel file (xlsx, a zip archive)" if b"[Content_Types].xml" in head else "a zip archive"
        return f"this is {kind}: unpack or export it, and {instead}"
    if head.startswith(OLE):
        return f"this is an old Excel file (xls) or another Office document: export it, and {instead}"
    if head.startswith(UTF_16) or _has_every_second_byte_zero(head):
        return "this is text in UTF-16, which Windows and Excel write: convert it to UTF-8 (iconv -f UTF-16 -t UTF-8)"
    if head.startswith(ZSTD):
        return "this is compressed with zstd: decompress it, or compress it with gzip"
    if head.startswith((PDF, PARQUET)):
        return f"this is a {'PDF' if head.startswith(PDF) else 'Parquet'} file: {instead}"
    return None


def diagnose_line(line: bytes) -> str | None:
    """Return what a refused line is and how to fix it; None if its errors already say so."""
    text = line.strip().removeprefix(b"\xef\xbb\xbf")
    if text in (b"{", b"["):
        return "this is JSON over several lines: write each object on its own line (jq -c .)"
    if text.startswith(b"["):
        return "this is a JSON list: write each object on its own line (jq -c '.[]')"
    if text.startswith(b"<"):
        return f"this is XML or HTML: {EXPECTED_LOG_FORMAT}"
    if not text.startswith(b"{"):
        delimiters = max((text.count(one) for one in (b",", b";", b"\t", b"|")), default=0)
        return f"this is CSV: {EXPECTED_LOG_FORMAT}" if delimiters >= MIN_DELIMITERS else None
    return _diagnose_bare_event(text)


def _diagnose_bare_event(text: bytes) -> str | None:
    try:
        read = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(read, dict) or "event" in read or not {"event_id", "invoice_id"} & set(read):
        return None
    stage = _STAGE_OF.get(status) if isinstance(status := read.get("status"), str) else None
    if read.get("stage") in STAGES:
        stage = read.pop("stage")
    named = {name: read[name] for name in ("event_id", "invoice_id", "status") if name in read}
    shown = to_one_line(msgspec.json.encode(named).decode())[1:-1]
    shown = shown if len(shown) <= MAX_SHOWN_CHARACTERS else shown[:MAX_SHOWN_CHARACTERS] + "…"
    wrapped = f'{{"stage": "{stage or "ingestion"}", "event": {{{shown}, ...}}}}'
    return f"this is an event without its stage: wrap it, {wrapped}"


def _has_every_second_byte_zero(head: bytes) -> bool:
    """Return whether the text looks like ASCII in UTF-16 without a byte order mark."""
    start = head[:64]
    return len(start) >= 4 and (not any(start[1::2]) or not any(start[0::2])) and any(start)
