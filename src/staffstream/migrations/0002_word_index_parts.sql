INSERT INTO memory_words (memory_words, rank) VALUES ('usermerge', 2);
CREATE INDEX runs_of_scope ON runs (scope_id);
PRAGMA user_version = 2;
