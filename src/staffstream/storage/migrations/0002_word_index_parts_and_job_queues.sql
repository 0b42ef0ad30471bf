INSERT INTO memory_words (memory_words, rank) VALUES ('usermerge', 2);
CREATE INDEX runs_of_scope ON runs (scope_id);
ALTER TABLE jobs ADD COLUMN queue TEXT;
CREATE INDEX jobs_running_of_queue ON jobs (queue, due_at) WHERE state = 'running';
PRAGMA user_version = 2;
