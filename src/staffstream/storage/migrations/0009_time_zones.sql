-- The time zone of a conversation's user.
ALTER TABLE conversations ADD COLUMN time_zone TEXT NOT NULL DEFAULT '';
PRAGMA user_version = 9;
