ALTER TABLE runs ADD COLUMN place INTEGER NOT NULL DEFAULT 0;
DROP INDEX runs_queued;
CREATE INDEX runs_queued ON runs (place, id) WHERE state = 'queued';
CREATE INDEX runs_queued_of_scope ON runs (scope_id, place) WHERE state = 'queued';
CREATE INDEX scopes_of_user ON scopes (user_id);
PRAGMA user_version = 7;
