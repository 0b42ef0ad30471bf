ALTER TABLE staff ADD COLUMN erased_at TEXT;
PRAGMA user_version = 8;
