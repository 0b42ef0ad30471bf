-- The word index is filled again at the next start: its terms are made by us now, for any script.
DROP TABLE memory_words;
CREATE VIRTUAL TABLE memory_words
    USING fts5 (text, content = '', tokenize = "unicode61 remove_diacritics 0 categories 'L* N* M* Co'");
INSERT INTO memory_words (memory_words, rank) VALUES ('secure-delete', 1);
INSERT INTO memory_words (memory_words, rank) VALUES ('usermerge', 2);
PRAGMA user_version = 11;
