-- Conversations under a client's own id, recognised by what a client repeats, and keys that speak for many users.
ALTER TABLE conversations ADD COLUMN external_id TEXT;
CREATE UNIQUE INDEX conversations_by_external_id ON conversations (scope_id, external_id) WHERE external_id IS NOT NULL;
ALTER TABLE api_keys ADD COLUMN gateway INTEGER NOT NULL DEFAULT 0 CHECK (gateway IN (0, 1));
CREATE TABLE fingerprints (
    message_id TEXT PRIMARY KEY REFERENCES messages ON DELETE CASCADE,
    scope_id   INTEGER NOT NULL REFERENCES scopes ON DELETE CASCADE,
    path       INTEGER NOT NULL,
    exchange   INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX fingerprints_by_path ON fingerprints (scope_id, path);
CREATE INDEX fingerprints_by_exchange ON fingerprints (scope_id, exchange) WHERE exchange IS NOT NULL;
PRAGMA user_version = 6;
