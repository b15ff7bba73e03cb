"""Schema of the durable store `cell.db`, and the migrations from older versions."""

import apsw

from bems.embedded.storage.database_files import Migration
from bems.embedded.storage.migration_v2 import migrate_to_v2
from bems.embedded.storage.migration_v4 import migrate_to_v4
from bems.embedded.storage.seed_dictionaries import load_dictionaries

APPLICATION_ID = 0x42454D53
"""`BEMS` in ASCII: PRAGMA application_id in the header of the file."""

DATABASE = "cell.db"

RESOLVED_PREFIX = "resolved "
"""Prefix of the id in the table `alerts` of a message of kind `resolved`, which is no alert. An alert's id has no
space."""

COUNT_ALERTS = f"""SELECT (SELECT count(*) FROM alerts WHERE invoice_id > '')
    - (SELECT count(*) FROM alerts WHERE id BETWEEN '{RESOLVED_PREFIX}' AND '{RESOLVED_PREFIX}z')"""
"""Query of the number of alerts of invoices. An alert of a control total has no invoice."""

_TABLES_V1 = """
CREATE TABLE dictionaries (kind TEXT PRIMARY KEY, content BLOB NOT NULL) STRICT;
CREATE TABLE definitions (number INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, text TEXT NOT NULL) STRICT;

-- The archive: accepted events, in the order of acceptance.
CREATE TABLE events (
    seq INTEGER PRIMARY KEY, event_id TEXT NOT NULL UNIQUE, digest ANY NOT NULL, invoice_id TEXT NOT NULL,
    body BLOB NOT NULL
) STRICT;

-- last_transition is the newest row of the invoice, and prev of each row is the one before it. An index instead would
-- be one more page to write for every event. step and since are those of the invoice's wait.
CREATE TABLE invoices (
    number INTEGER PRIMARY KEY, invoice_id TEXT NOT NULL UNIQUE, status TEXT NOT NULL, step INTEGER, since INTEGER,
    mark TEXT, check_at INTEGER, last_transition INTEGER, record BLOB NOT NULL
) STRICT;
CREATE INDEX invoices_to_check ON invoices (check_at, invoice_id) WHERE check_at IS NOT NULL;
CREATE INDEX invoices_by_status ON invoices (status, invoice_id);
CREATE INDEX invoices_stuck ON invoices (since, invoice_id) WHERE step > 0;
CREATE INDEX invoices_marked ON invoices (mark, invoice_id) WHERE mark IS NOT NULL;
CREATE TABLE transitions (
    seq INTEGER PRIMARY KEY, prev INTEGER, invoice_id TEXT NOT NULL, recorded_at INTEGER NOT NULL, body BLOB NOT NULL
) STRICT;

CREATE TABLE executions (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, definition INTEGER, due INTEGER, stimuli INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX executions_due ON executions (due, id) WHERE due IS NOT NULL;

CREATE TABLE alerts (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, invoice_id TEXT NOT NULL, stage TEXT NOT NULL,
    severity TEXT NOT NULL, body BLOB NOT NULL
) STRICT;
CREATE INDEX alerts_of_invoice ON alerts (invoice_id);
CREATE TABLE commands (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, invoice_id TEXT NOT NULL, operator TEXT NOT NULL,
    accepted_at INTEGER NOT NULL, verb TEXT NOT NULL, result TEXT NOT NULL, body BLOB NOT NULL
) STRICT;
CREATE INDEX commands_of_invoice ON commands (invoice_id);

-- Dead letters: events whose handling raised. retry_at is NULL if the event is set aside until an operator redrives it.
CREATE TABLE letters (
    event_id TEXT PRIMARY KEY, invoice_id TEXT NOT NULL, attempts INTEGER NOT NULL, failed_at INTEGER NOT NULL,
    retry_at INTEGER, error TEXT NOT NULL
) STRICT;
CREATE INDEX letters_due ON letters (retry_at) WHERE retry_at IS NOT NULL;
"""


def _create_tables(connection: apsw.Connection) -> None:
    """Create version 1."""
    connection.execute(_TABLES_V1)
    connection.executemany("INSERT INTO dictionaries VALUES (?, ?)", load_dictionaries().items())


def _create_policies(connection: apsw.Connection) -> None:
    """Migrate to version 3, which stores each policy in force, the newest last. `document` is JSON with every date."""
    connection.execute("""CREATE TABLE policies (
        number INTEGER PRIMARY KEY, since INTEGER NOT NULL, digest TEXT NOT NULL, source TEXT NOT NULL,
        document BLOB NOT NULL
    ) STRICT""")


def _create_control_totals(connection: apsw.Connection) -> None:
    """Migrate to version 5, which stores control totals, one row for each source, stage and interval.

    `since` and `until` are the interval, `check_at` is the instant of the next comparison. From this version on, the
    table `alerts` may hold alerts of control totals, whose invoice_id is empty.
    """
    connection.execute("""CREATE TABLE control_totals (
        id TEXT NOT NULL UNIQUE, source TEXT NOT NULL, stage TEXT NOT NULL, since INTEGER NOT NULL,
        until INTEGER NOT NULL, check_at INTEGER, body BLOB NOT NULL
    ) STRICT;
    CREATE INDEX control_totals_by_interval ON control_totals (until, id);
    CREATE INDEX control_totals_due ON control_totals (check_at) WHERE check_at IS NOT NULL;""")


MIGRATIONS: tuple[Migration, ...] = (
    _create_tables,
    migrate_to_v2,
    _create_policies,
    migrate_to_v4,
    _create_control_totals,
)
"""The nth migration turns version n - 1 into version n (PRAGMA user_version). A released migration never changes."""
