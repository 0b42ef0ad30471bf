ALTER TABLE runs RENAME COLUMN door TO mode;
PRAGMA user_version = 3;
