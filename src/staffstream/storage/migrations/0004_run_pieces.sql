CREATE TABLE run_pieces (
    run_id TEXT NOT NULL REFERENCES runs ON DELETE CASCADE,
    start  INTEGER NOT NULL,
    text   TEXT NOT NULL,
    PRIMARY KEY (run_id, start)
) STRICT, WITHOUT ROWID;
INSERT INTO run_pieces (run_id, start, text) SELECT id, 0, partial_text FROM runs WHERE partial_text <> '';
ALTER TABLE runs DROP COLUMN partial_text;
ALTER TABLE runs ADD COLUMN followed_until TEXT;
CREATE INDEX runs_followed ON runs (followed_until) WHERE followed_until IS NOT NULL;
PRAGMA user_version = 4;
