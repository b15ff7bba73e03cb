"""The schema of the durable store: what the database looks like, and how an older one becomes a present one."""

import apsw

from bems.embedded.storage.database_files import Migration
from bems.embedded.storage.migration_v2 import migrate_to_v2
from bems.embedded.storage.migration_v4 import migrate_to_v4
from bems.embedded.storage.seed_dictionaries import load_dictionaries

APPLICATION_ID = 0x42454D53
"""`BEMS`, in the header of the file."""

DATABASE = "cell.db"

_FIRST = """
CREATE TABLE dictionaries (kind TEXT PRIMARY KEY, content BLOB NOT NULL) STRICT;
CREATE TABLE definitions (number INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, text TEXT NOT NULL) STRICT;

-- The archive: accepted events, as they came.
CREATE TABLE events (
    seq INTEGER PRIMARY KEY, event_id TEXT NOT NULL UNIQUE, digest ANY NOT NULL, invoice_id TEXT NOT NULL,
    body BLOB NOT NULL
) STRICT;

-- last_transition leads to the newest row of the invoice, and prev from each row to the one before. An index would be
-- one more page to write for every event. step and since are those of its wait.
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

-- Events whose handling raised. retry_at NULL: set aside, until somebody has it tried again.
CREATE TABLE letters (
    event_id TEXT PRIMARY KEY, invoice_id TEXT NOT NULL, attempts INTEGER NOT NULL, failed_at INTEGER NOT NULL,
    retry_at INTEGER, error TEXT NOT NULL
) STRICT;
CREATE INDEX letters_due ON letters (retry_at) WHERE retry_at IS NOT NULL;
"""


def _create(connection: apsw.Connection) -> None:
    connection.execute(_FIRST)
    connection.executemany("INSERT INTO dictionaries VALUES (?, ?)", load_dictionaries().items())


def _keep_policies(connection: apsw.Connection) -> None:
    """Version 3: every policy that was in force, the newest last. `document` has its dates too, as JSON."""
    connection.execute("""CREATE TABLE policies (
        number INTEGER PRIMARY KEY, since INTEGER NOT NULL, digest TEXT NOT NULL, source TEXT NOT NULL,
        document BLOB NOT NULL
    ) STRICT""")


MIGRATIONS: tuple[Migration, ...] = (_create, migrate_to_v2, _keep_policies, migrate_to_v4)
"""The nth makes version n of version n - 1 (PRAGMA user_version). None is ever changed once it was released."""
