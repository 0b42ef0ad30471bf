-- The truth about today's tables. A new database is made from this file; an older one is brought here by
-- src/staffstream/storage/migrations/, and a test compares the two. PRAGMA user_version says which version a file has.
--
-- Ids are UUIDv7 text, times RFC 3339 UTC text with milliseconds, both made in Python. JSON is text.
-- A scope is one (staff, user) pair. Everything that belongs to a user hangs on its scope, so that one integer
-- guards every query and erasing a staff member is one cascade.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,                  -- e.g. embedder: which one made the stored vectors
    value TEXT NOT NULL
) STRICT;

CREATE TABLE staff (
    id                    TEXT PRIMARY KEY,
    name                  TEXT NOT NULL CHECK (name <> ''),
    role                  TEXT NOT NULL DEFAULT '',
    persona               TEXT NOT NULL DEFAULT '',
    model                 TEXT,              -- null: the server's
    context_budget_tokens INTEGER CHECK (context_budget_tokens > 0),
    max_output_tokens     INTEGER CHECK (max_output_tokens > 0),
    webhook_url           TEXT,
    webhook_secrets       TEXT NOT NULL,     -- JSON array, newest first: the present one and the one before it
    webhook_disabled_at   TEXT,              -- its receiver answered 410; a new webhook_url enables it
    memory_enabled        INTEGER NOT NULL DEFAULT 1 CHECK (memory_enabled IN (0, 1)),
    created_at            TEXT NOT NULL,
    updated_at            TEXT NOT NULL,
    erased_at             TEXT,              -- nobody finds it any more; what it holds is being purged
    thinking_budget_tokens INTEGER CHECK (thinking_budget_tokens >= 1024)  -- null: it does not think first
) STRICT;

CREATE TABLE api_keys (
    id           TEXT PRIMARY KEY,
    name         TEXT NOT NULL,
    user_id      TEXT NOT NULL,
    role         TEXT NOT NULL CHECK (role IN ('admin', 'member')),
    prefix       TEXT NOT NULL,              -- the part that may be shown
    hash         BLOB NOT NULL UNIQUE,       -- SHA-256 of the whole key
    created_at   TEXT NOT NULL,
    last_used_at TEXT,
    revoked_at   TEXT,
    gateway      INTEGER NOT NULL DEFAULT 0 CHECK (gateway IN (0, 1)) -- it may name the user it speaks for
) STRICT;

CREATE TABLE scopes (
    id          INTEGER PRIMARY KEY CHECK (id BETWEEN 1 AND 0x7fffffff),
    staff_id    TEXT NOT NULL REFERENCES staff ON DELETE CASCADE,
    user_id     TEXT NOT NULL,
    last_memory INTEGER NOT NULL DEFAULT 0,  -- the highest n in memories.number = scope_id << 32 | n
    UNIQUE (staff_id, user_id)
) STRICT;
CREATE INDEX scopes_of_user ON scopes (user_id);

CREATE TABLE conversations (
    id         TEXT PRIMARY KEY,
    scope_id   INTEGER NOT NULL REFERENCES scopes ON DELETE CASCADE,
    title      TEXT NOT NULL DEFAULT '',
    user_name  TEXT NOT NULL DEFAULT '',     -- what the user is called here
    is_default INTEGER NOT NULL DEFAULT 0 CHECK (is_default IN (0, 1)),
    last_turn  INTEGER NOT NULL DEFAULT 0,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    external_id TEXT,                        -- a client's own id of it
    time_zone  TEXT NOT NULL DEFAULT ''      -- where the user is, by its IANA name; '': not given here
) STRICT;
CREATE UNIQUE INDEX conversations_default ON conversations (scope_id) WHERE is_default = 1;
CREATE UNIQUE INDEX conversations_by_external_id ON conversations (scope_id, external_id) WHERE external_id IS NOT NULL;
CREATE INDEX conversations_of_scope ON conversations (scope_id, updated_at);

-- A turn is a question with its answers (more than one after a regeneration). (turn, id) is the order of reading.
CREATE TABLE messages (
    id               TEXT PRIMARY KEY,
    conversation_id  TEXT NOT NULL REFERENCES conversations ON DELETE CASCADE,
    scope_id         INTEGER NOT NULL REFERENCES scopes ON DELETE CASCADE,
    turn             INTEGER NOT NULL,
    message_type     TEXT NOT NULL CHECK (message_type IN ('user', 'assistant')),
    content          TEXT NOT NULL,
    status           TEXT NOT NULL CHECK (status IN ('complete', 'cancelled', 'interrupted')),
    reply_to         TEXT REFERENCES messages ON DELETE CASCADE,
    model            TEXT,
    stop_reason      TEXT,
    usage            TEXT,
    feedback_rating  INTEGER CHECK (feedback_rating IN (-1, 1)),
    feedback_comment TEXT,
    created_at       TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX messages_in_order ON messages (conversation_id, turn, id);
CREATE INDEX messages_replies ON messages (reply_to) WHERE reply_to IS NOT NULL;
CREATE INDEX messages_of_scope ON messages (scope_id);

-- What a client that names no conversation is recognised by (fingerprints.py): hashes of what it repeats.
CREATE TABLE fingerprints (
    message_id TEXT PRIMARY KEY REFERENCES messages ON DELETE CASCADE,
    scope_id   INTEGER NOT NULL REFERENCES scopes ON DELETE CASCADE,
    path       INTEGER NOT NULL,             -- of the conversation up to and with the message
    exchange   INTEGER                       -- of a reply with its question
) STRICT, WITHOUT ROWID;
CREATE INDEX fingerprints_by_path ON fingerprints (scope_id, path);
CREATE INDEX fingerprints_by_exchange ON fingerprints (scope_id, exchange) WHERE exchange IS NOT NULL;

-- The making of one reply. id is the id that the assistant message will have.
CREATE TABLE runs (
    id               TEXT PRIMARY KEY,
    conversation_id  TEXT NOT NULL REFERENCES conversations ON DELETE CASCADE,
    scope_id         INTEGER NOT NULL REFERENCES scopes ON DELETE CASCADE,
    user_message_id  TEXT NOT NULL REFERENCES messages ON DELETE CASCADE,
    turn             INTEGER NOT NULL,
    mode             TEXT NOT NULL CHECK (mode IN ('stream', 'async')),
    state            TEXT NOT NULL CHECK (state IN ('queued', 'building', 'streaming', 'done', 'failed', 'cancelled')),
    message_id       TEXT,                      -- the saved reply, null if nothing was said
    error            TEXT,                      -- JSON {code, detail, retryable}
    model            TEXT,
    stop_reason      TEXT,
    usage            TEXT,
    webhook_url      TEXT,                      -- the message's own
    owner            TEXT,                      -- the process that is making it
    fence            INTEGER NOT NULL DEFAULT 0, -- grows with every claim: an old owner's writes no longer match
    lease_expires_at TEXT,
    attempts         INTEGER NOT NULL DEFAULT 0,
    delivered        INTEGER NOT NULL DEFAULT 0 CHECK (delivered IN (0, 1)), -- somebody was sent some of its text
    not_before       TEXT,                      -- a queued run that waits after a failed attempt
    created_at       TEXT NOT NULL,
    building_at      TEXT,
    streaming_at     TEXT,
    first_token_at   TEXT,
    finished_at      TEXT,
    place            INTEGER NOT NULL DEFAULT 0, -- in the queue: users take turns, so a user's second one stands behind everybody's first
    followed_until   TEXT,                      -- another process sends its text to somebody: it is saved more often
    CHECK ((state IN ('done', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
    CHECK ((state = 'failed') = (error IS NOT NULL))
) STRICT;
CREATE UNIQUE INDEX runs_one_at_a_time ON runs (conversation_id) WHERE state IN ('building', 'streaming');
CREATE INDEX runs_queued ON runs (place, id) WHERE state = 'queued';
CREATE INDEX runs_queued_of_scope ON runs (scope_id, place) WHERE state = 'queued';
CREATE INDEX runs_of_conversation ON runs (conversation_id, finished_at, turn, id); -- its active ones lie together
CREATE INDEX runs_of_message ON runs (user_message_id);
CREATE INDEX runs_of_scope ON runs (scope_id);
CREATE INDEX runs_followed ON runs (followed_until) WHERE followed_until IS NOT NULL;

-- The text of replies that are being made: what was new each time, under the number of characters before it. A run's
-- pieces become its message when it ends.
CREATE TABLE run_pieces (
    run_id TEXT NOT NULL REFERENCES runs ON DELETE CASCADE,
    start  INTEGER NOT NULL,
    text   TEXT NOT NULL,
    PRIMARY KEY (run_id, start)
) STRICT, WITHOUT ROWID;

-- What a run sent to the provider and why: apart from runs, whose rows are rewritten as they go on.
CREATE TABLE run_contexts (
    run_id TEXT PRIMARY KEY REFERENCES runs ON DELETE CASCADE,
    record TEXT NOT NULL
) STRICT;

CREATE TABLE idempotency_keys (
    scope_id     INTEGER NOT NULL REFERENCES scopes ON DELETE CASCADE,
    key          TEXT NOT NULL,
    request_hash BLOB NOT NULL,
    run_id       TEXT NOT NULL REFERENCES runs ON DELETE CASCADE,
    created_at   TEXT NOT NULL,
    PRIMARY KEY (scope_id, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);
CREATE INDEX idempotency_keys_of_run ON idempotency_keys (run_id);

-- How far the provider's own count is above ours, by model: learned from the usage of each reply.
CREATE TABLE token_ratios (
    model   TEXT PRIMARY KEY,
    ratio   REAL NOT NULL CHECK (ratio > 0),
    samples INTEGER NOT NULL
) STRICT;

-- The rolling digest of a conversation's turns up to and with until_turn.
CREATE TABLE summaries (
    conversation_id TEXT PRIMARY KEY REFERENCES conversations ON DELETE CASCADE,
    text            TEXT NOT NULL,
    until_turn      INTEGER NOT NULL,
    model           TEXT NOT NULL,
    updated_at      TEXT NOT NULL
) STRICT;

-- How far a conversation has been learned from: everything up to (turn, message) has been through extraction.
CREATE TABLE extractions (
    conversation_id TEXT PRIMARY KEY REFERENCES conversations ON DELETE CASCADE,
    until_turn      INTEGER NOT NULL,
    until_message   TEXT NOT NULL,
    updated_at      TEXT NOT NULL
) STRICT;

-- number = scope_id << 32 | n: one rowid range a scope, so that full-text search needs no join to stay inside it.
CREATE TABLE memories (
    number            INTEGER PRIMARY KEY,
    id                TEXT NOT NULL UNIQUE,
    scope_id          INTEGER NOT NULL REFERENCES scopes ON DELETE CASCADE,
    kind              TEXT NOT NULL CHECK (kind IN ('fact', 'episode')),
    text              TEXT NOT NULL,
    subject           TEXT,                  -- of a fact
    predicate         TEXT,
    object            TEXT,
    category          TEXT,                  -- preference, event, plan …
    quote             TEXT,                  -- the words of the source message that say it
    importance        REAL NOT NULL DEFAULT 0.5 CHECK (importance BETWEEN 0 AND 1),
    pinned            INTEGER NOT NULL DEFAULT 0 CHECK (pinned IN (0, 1)),
    states_relation   INTEGER NOT NULL DEFAULT 0 CHECK (states_relation IN (0, 1)), -- it has one in the graph
    speaker           TEXT NOT NULL DEFAULT '',
    conversation_id   TEXT REFERENCES conversations ON DELETE CASCADE,
    source_message_id TEXT REFERENCES messages ON DELETE CASCADE,
    occurred_at       TEXT NOT NULL,
    valid_from        TEXT NOT NULL,
    valid_to          TEXT,
    superseded_by     TEXT,                  -- the id of the memory that took its place
    reinforced_at     TEXT,                  -- last said again: ages count from here
    reinforcements    INTEGER NOT NULL DEFAULT 0,
    embedded          INTEGER NOT NULL DEFAULT 0 CHECK (embedded IN (0, 1)),
    deleted_at        TEXT,                  -- a tombstone: kept so that it is not learned again
    created_at        TEXT NOT NULL
) STRICT;
CREATE INDEX memories_of_scope ON memories (scope_id, occurred_at, number);
CREATE INDEX memories_of_message ON memories (source_message_id);
CREATE INDEX memories_of_conversation ON memories (conversation_id, number);
CREATE INDEX memories_by_statement ON memories (scope_id, subject, predicate) WHERE kind = 'fact';
CREATE INDEX memories_to_embed ON memories (number) WHERE embedded = 0 AND deleted_at IS NULL;

-- The words of the living memories, by memories.number. secure-delete takes deleted words out of the index at once
-- instead of at some later merge; usermerge lets housekeeping put parts together as soon as there are two of a size.
CREATE VIRTUAL TABLE memory_words USING fts5 (text, content = '', tokenize = "unicode61 remove_diacritics 0 categories 'L* N* M* Co'");
INSERT INTO memory_words (memory_words, rank) VALUES ('secure-delete', 1);
INSERT INTO memory_words (memory_words, rank) VALUES ('usermerge', 2);

-- What comparing texts takes, for each living memory (memory_index.py). A row that changes moves to a new place, taken like
-- a number: scopes are read into memory from the last place on.
CREATE TABLE memory_vectors (
    place  INTEGER PRIMARY KEY,              -- scope_id << 32 | n
    number INTEGER NOT NULL UNIQUE,
    thread INTEGER NOT NULL,                 -- tells conversations apart; 0 outside any
    pieces BLOB NOT NULL,                    -- of the text, as the built-in table splits it: uint16, little-endian
    vector BLOB                              -- its direction, int8 a dimension; null while it waits to be embedded
) STRICT;

CREATE TABLE entities (
    id         TEXT PRIMARY KEY,
    scope_id   INTEGER NOT NULL REFERENCES scopes ON DELETE CASCADE,
    name       TEXT NOT NULL,
    type       TEXT NOT NULL DEFAULT '',
    created_at TEXT NOT NULL
) STRICT;
CREATE INDEX entities_of_scope ON entities (scope_id);

-- Every name a thing goes by, folded, for finding entities from a question's words without a scan.
CREATE TABLE entity_names (
    scope_id  INTEGER NOT NULL REFERENCES scopes ON DELETE CASCADE,
    name      TEXT NOT NULL,
    entity_id TEXT NOT NULL REFERENCES entities ON DELETE CASCADE,
    PRIMARY KEY (scope_id, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX entity_names_of_entity ON entity_names (entity_id);

CREATE TABLE relations (
    id                TEXT PRIMARY KEY,
    scope_id          INTEGER NOT NULL REFERENCES scopes ON DELETE CASCADE,
    subject_id        TEXT NOT NULL REFERENCES entities ON DELETE CASCADE,
    predicate         TEXT NOT NULL,
    object_id         TEXT NOT NULL REFERENCES entities ON DELETE CASCADE,
    memory_id         TEXT REFERENCES memories (id) ON DELETE CASCADE,
    source_message_id TEXT REFERENCES messages ON DELETE CASCADE,
    valid_from        TEXT NOT NULL,
    valid_to          TEXT,
    created_at        TEXT NOT NULL
) STRICT;
CREATE INDEX relations_from ON relations (scope_id, subject_id);
CREATE INDEX relations_to ON relations (scope_id, object_id);
CREATE INDEX relations_of_message ON relations (source_message_id);
CREATE INDEX relations_of_memory ON relations (memory_id);
CREATE INDEX relations_of_subject ON relations (subject_id);
CREATE INDEX relations_of_object ON relations (object_id);

CREATE TABLE memory_entities (
    memory_id TEXT NOT NULL REFERENCES memories (id) ON DELETE CASCADE,
    entity_id TEXT NOT NULL REFERENCES entities ON DELETE CASCADE,
    PRIMARY KEY (memory_id, entity_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX memory_entities_of_entity ON memory_entities (entity_id);

-- Durable background work. Enqueued in the transaction that causes it; a finished job is deleted.
CREATE TABLE jobs (
    id               TEXT PRIMARY KEY,
    kind             TEXT NOT NULL CHECK (kind IN ('extract', 'summarise', 'embed', 'deliver')),
    subject          TEXT NOT NULL,          -- what it is about: a conversation's, memory's or delivery's id
    scope_id         INTEGER REFERENCES scopes ON DELETE CASCADE,
    queue            TEXT,                   -- whose jobs only so many are run at a time; of a delivery, its receiver
    state            TEXT NOT NULL CHECK (state IN ('due', 'running', 'dead')),
    attempts         INTEGER NOT NULL DEFAULT 0,
    due_at           TEXT,                   -- when a worker may take it; of a running one, when its lease runs out
    again_at         TEXT,                   -- asked for again while it runs: when it is due then
    owner            TEXT,
    fence            INTEGER NOT NULL DEFAULT 0,
    last_error       TEXT,                   -- a code, never an exception's text
    created_at       TEXT NOT NULL,
    CHECK ((state = 'dead') = (due_at IS NULL)),
    CHECK (again_at IS NULL OR state = 'running')
) STRICT;
CREATE UNIQUE INDEX jobs_one_a_subject ON jobs (kind, subject) WHERE state IN ('due', 'running');
CREATE INDEX jobs_by_due ON jobs (kind, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX jobs_running_of_queue ON jobs (queue, due_at) WHERE state = 'running';
CREATE INDEX jobs_of_scope ON jobs (scope_id);

CREATE TABLE deliveries (
    id           TEXT PRIMARY KEY,           -- the webhook-id, the same over all attempts
    scope_id     INTEGER NOT NULL REFERENCES scopes ON DELETE CASCADE,
    run_id       TEXT NOT NULL REFERENCES runs ON DELETE CASCADE,
    url          TEXT NOT NULL,
    event        TEXT NOT NULL CHECK (event IN ('message.completed', 'message.failed')),
    body         TEXT NOT NULL,
    created_at   TEXT NOT NULL,
    delivered_at TEXT                        -- whether one without is pending or failed, its job says
) STRICT;
CREATE INDEX deliveries_of_scope ON deliveries (scope_id, id);
CREATE INDEX deliveries_of_run ON deliveries (run_id);

CREATE TABLE delivery_attempts (
    delivery_id TEXT NOT NULL REFERENCES deliveries ON DELETE CASCADE,
    number      INTEGER NOT NULL,
    started_at  TEXT NOT NULL,
    duration_ms INTEGER NOT NULL,
    status      INTEGER,                     -- the receiver's HTTP status, null if there was none
    error       TEXT,
    PRIMARY KEY (delivery_id, number)
) STRICT, WITHOUT ROWID;

-- What was used in a day (UTC), by user and by staff member: what the daily caps are measured against.
CREATE TABLE spending_days (
    day      TEXT NOT NULL,
    user_id  TEXT,
    staff_id TEXT REFERENCES staff ON DELETE CASCADE,
    tokens   INTEGER NOT NULL,
    cost_usd REAL NOT NULL,
    CHECK ((user_id IS NULL) <> (staff_id IS NULL))
) STRICT;
CREATE UNIQUE INDEX spending_days_of_user ON spending_days (user_id, day) WHERE user_id IS NOT NULL;
CREATE UNIQUE INDEX spending_days_of_staff ON spending_days (staff_id, day) WHERE staff_id IS NOT NULL;

-- What was used since the sums were last brought up to date. A reply's end appends here, so that ends do not wait for
-- each other at a row of spending_days; both together are what was used.
CREATE TABLE spending_entries (
    id       TEXT PRIMARY KEY,
    day      TEXT NOT NULL,
    user_id  TEXT NOT NULL,
    staff_id TEXT NOT NULL,
    tokens   INTEGER NOT NULL,
    cost_usd REAL NOT NULL
) STRICT;
CREATE INDEX spending_entries_of_user ON spending_entries (user_id, day);
CREATE INDEX spending_entries_of_staff ON spending_entries (staff_id, day);

PRAGMA application_id = 0x53544653;
PRAGMA user_version = 11;
