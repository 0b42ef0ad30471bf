-- The system text of a client goes with its run, through a restart and to another process.
ALTER TABLE runs ADD COLUMN instructions TEXT;
PRAGMA user_version = 12;
