CREATE TABLE spending_entries (
    id       TEXT PRIMARY KEY,
    day      TEXT NOT NULL,
    user_id  TEXT NOT NULL,
    staff_id TEXT NOT NULL,
    tokens   INTEGER NOT NULL,
    cost_usd REAL NOT NULL
) STRICT;
CREATE INDEX spending_entries_of_user ON spending_entries (user_id, day);
CREATE INDEX spending_entries_of_staff ON spending_entries (staff_id, day);
PRAGMA user_version = 5;
