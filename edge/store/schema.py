"""What is in the ledger's file: tables, indexes and the triggers that keep the books.

The triggers hold what must be true after any change of a job's state, whoever makes it: the
counts, whose turn it is, and that a finished job with a target owes a delivery. So each change of
state is one statement: each more would be one more time that the thread has to get Python's
interpreter lock back, which may take 5 ms while the event loop is busy.

A migration that was released is never changed; a new one is appended.

Whose turn it is
----------------
A job waits in a `line`, named by whoever adds it after what its jobs wait for (an upstream, a
model), so that those that can be answered now are not held up by those that cannot. A claim names
the lines that it takes from. Lines of one priority go by turns, the one that was served longest
ago first; lines that never were by their next jobs' deadlines, then by age.

Within one line, clients of one priority take turns. A `lane` is the queue of one client in one
line and priority: how many jobs wait in it, the first of them (by deadline, then age), and the
`turn` at which that one is due. The line's next job is the head of the lane with the lowest turn;
equal turns go by the heads' deadlines, then by age. This is start-time fair queueing (Goyal, Vin
and Cheng 1996) where every job costs the same, with a clock (`now`) for each line and priority:

- a lane that was served at turn t is due again at t + 2;
- a lane that gets its first job is due at `now` + 1, where `now` is the turn served last: before
  those that were served lately, after those that have been waiting. It is not `now` itself, or
  clients that come with one job each, for ever, would starve the ones with many.
- an empty lane keeps its turn until `now` + 1 has reached it, so that a client gains nothing by
  asking one thing at a time.

So a claim looks at one entry of one index for each line, however many jobs and clients there are.
Lines are never forgotten: there are few, and their names do not come from clients.
"""

from __future__ import annotations

LEDGER = """
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY,            -- age: the order of arrival, whatever the clock says
    id TEXT NOT NULL UNIQUE,
    line TEXT NOT NULL,
    client TEXT NOT NULL,
    caller TEXT NOT NULL,
    door TEXT NOT NULL,
    kind TEXT NOT NULL,
    priority INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 2),
    deadline REAL NOT NULL,             -- epoch seconds, Infinity for none
    created REAL NOT NULL,
    started REAL,                       -- the last claim
    finished REAL,
    state TEXT NOT NULL
        CHECK (state IN ('queued', 'running', 'done', 'failed', 'expired', 'cancelled')),
    attempts INTEGER NOT NULL DEFAULT 0,
    error_code TEXT,
    error_message TEXT,
    size INTEGER NOT NULL,              -- bytes, as counted against the queue's bound
    CHECK ((finished IS NULL) = (state IN ('queued', 'running')))
) STRICT;

CREATE INDEX jobs_by_lane ON jobs (priority, client, line, deadline, seq) WHERE state = 'queued';
CREATE INDEX jobs_by_age ON jobs (priority, seq) WHERE state = 'queued';
CREATE INDEX jobs_by_deadline ON jobs (deadline) WHERE finished IS NULL AND deadline < 9e999;
CREATE INDEX jobs_by_state ON jobs (state, id);
CREATE INDEX jobs_by_finish ON jobs (finished) WHERE finished IS NOT NULL;

-- Large values have tables of their own: a change of state rewrites a short row only.
CREATE TABLE requests (
    job INTEGER PRIMARY KEY REFERENCES jobs (seq) ON DELETE CASCADE,
    body BLOB NOT NULL
) STRICT;

CREATE TABLE results (
    job INTEGER PRIMARY KEY REFERENCES jobs (seq) ON DELETE CASCADE,
    body BLOB NOT NULL
) STRICT;

CREATE TABLE idempotency (
    scope TEXT NOT NULL,
    key TEXT NOT NULL,
    digest BLOB NOT NULL,
    job INTEGER NOT NULL REFERENCES jobs (seq) ON DELETE CASCADE,
    PRIMARY KEY (scope, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_by_job ON idempotency (job);

CREATE TABLE deliveries (
    job INTEGER PRIMARY KEY REFERENCES jobs (seq) ON DELETE CASCADE,
    door TEXT NOT NULL,
    target BLOB NOT NULL,
    due REAL,                           -- epoch seconds; NULL where nothing is owed (any more)
    attempts INTEGER NOT NULL DEFAULT 0,
    delivered REAL
) STRICT;

CREATE INDEX deliveries_due ON deliveries (door, due, job) WHERE due IS NOT NULL;

CREATE TRIGGER finished AFTER UPDATE OF finished ON jobs
WHEN old.finished IS NOT new.finished BEGIN
    UPDATE deliveries SET due = new.finished, attempts = 0, delivered = NULL WHERE job = new.seq;
END;

CREATE TABLE totals (
    state TEXT NOT NULL,
    priority INTEGER NOT NULL,
    jobs INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (state, priority)
) STRICT, WITHOUT ROWID;

INSERT INTO totals
SELECT state.value, priority.value, 0, 0
FROM json_each('["queued", "running", "done", "failed", "expired", "cancelled"]') AS state,
     json_each('[0, 1, 2]') AS priority;

CREATE TRIGGER counted_in AFTER INSERT ON jobs BEGIN
    UPDATE totals SET jobs = jobs + 1, bytes = bytes + new.size
    WHERE state = new.state AND priority = new.priority;
END;

CREATE TRIGGER counted_on AFTER UPDATE OF state ON jobs WHEN old.state <> new.state BEGIN
    UPDATE totals SET jobs = jobs - 1, bytes = bytes - old.size
    WHERE state = old.state AND priority = old.priority;
    UPDATE totals SET jobs = jobs + 1, bytes = bytes + new.size
    WHERE state = new.state AND priority = new.priority;
END;

CREATE TRIGGER counted_out AFTER DELETE ON jobs BEGIN
    UPDATE totals SET jobs = jobs - 1, bytes = bytes - old.size
    WHERE state = old.state AND priority = old.priority;
END;

CREATE TABLE lines (
    priority INTEGER NOT NULL,
    line TEXT NOT NULL,
    waiting INTEGER NOT NULL,
    now INTEGER NOT NULL DEFAULT 0,
    served INTEGER NOT NULL DEFAULT 0,  -- a claim has the next number of its priority; 0 for never
    PRIMARY KEY (priority, line)
) STRICT, WITHOUT ROWID;

CREATE TABLE lanes (
    line TEXT NOT NULL,
    priority INTEGER NOT NULL,
    client TEXT NOT NULL,
    turn INTEGER NOT NULL,
    waiting INTEGER NOT NULL,
    deadline REAL,                      -- of the first job, as is seq; NULL in an empty lane
    seq INTEGER,
    PRIMARY KEY (line, priority, client)
) STRICT, WITHOUT ROWID;

CREATE INDEX lanes_by_turn ON lanes (line, priority, turn, deadline, seq) WHERE waiting > 0;
CREATE INDEX lanes_empty ON lanes (line, priority, turn) WHERE waiting = 0;

CREATE TRIGGER lined_up AFTER INSERT ON jobs WHEN new.state = 'queued' BEGIN
    INSERT INTO lines (priority, line, waiting) VALUES (new.priority, new.line, 1)
    ON CONFLICT DO UPDATE SET waiting = waiting + 1;
    INSERT INTO lanes (line, priority, client, turn, waiting, deadline, seq)
    SELECT line, priority, new.client, now + 1, 1, new.deadline, new.seq
    FROM lines WHERE line = new.line AND priority = new.priority
    ON CONFLICT DO UPDATE SET
        turn = iif(waiting = 0, max(turn, excluded.turn), turn),
        waiting = waiting + 1,
        (deadline, seq) = (
            SELECT deadline, seq FROM jobs
            WHERE state = 'queued' AND priority = new.priority AND client = new.client
            AND line = new.line ORDER BY deadline, seq LIMIT 1
        );
END;

CREATE TRIGGER lined_up_again AFTER UPDATE OF state ON jobs
WHEN new.state = 'queued' AND old.state <> 'queued' BEGIN
    INSERT INTO lines (priority, line, waiting) VALUES (new.priority, new.line, 1)
    ON CONFLICT DO UPDATE SET waiting = waiting + 1;
    INSERT INTO lanes (line, priority, client, turn, waiting, deadline, seq)
    SELECT line, priority, new.client, now + 1, 1, new.deadline, new.seq
    FROM lines WHERE line = new.line AND priority = new.priority
    ON CONFLICT DO UPDATE SET
        turn = iif(waiting = 0, max(turn, excluded.turn), turn),
        waiting = waiting + 1,
        (deadline, seq) = (
            SELECT deadline, seq FROM jobs
            WHERE state = 'queued' AND priority = new.priority AND client = new.client
            AND line = new.line ORDER BY deadline, seq LIMIT 1
        );
END;

CREATE TRIGGER stepped_out AFTER UPDATE OF state ON jobs
WHEN old.state = 'queued' AND new.state <> 'queued' BEGIN
    UPDATE lines SET waiting = waiting - 1 WHERE line = old.line AND priority = old.priority;
    UPDATE lanes SET
        waiting = waiting - 1,
        (deadline, seq) = (
            SELECT deadline, seq FROM jobs
            WHERE state = 'queued' AND priority = old.priority AND client = old.client
            AND line = old.line ORDER BY deadline, seq LIMIT 1
        )
    WHERE line = old.line AND priority = old.priority AND client = old.client;
END;

CREATE TRIGGER took_its_turn AFTER UPDATE OF state ON jobs
WHEN old.state = 'queued' AND new.state = 'running' BEGIN
    UPDATE lines SET
        now = (
            SELECT turn FROM lanes
            WHERE line = old.line AND priority = old.priority AND client = old.client
        ),
        served = 1 + (SELECT max(served) FROM lines WHERE priority = old.priority)
    WHERE line = old.line AND priority = old.priority;
    UPDATE lanes SET turn = turn + 2
    WHERE line = old.line AND priority = old.priority AND client = old.client;
    -- Empty lanes whose turn has come know nothing that a new one would not: a few at a time.
    DELETE FROM lanes WHERE line = old.line AND priority = old.priority AND client IN (
        SELECT client FROM lanes
        WHERE line = old.line AND priority = old.priority AND waiting = 0 AND turn <= (
            SELECT now + 1 FROM lines WHERE line = old.line AND priority = old.priority
        ) LIMIT 8
    );
END;
"""

BATCHES = """
-- What is in a file lies beside the ledger, under its id (files.py).
CREATE TABLE files (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    purpose TEXT NOT NULL,
    size INTEGER NOT NULL,
    created REAL NOT NULL,
    expires REAL NOT NULL
) STRICT;

CREATE INDEX files_by_expiry ON files (expires);

CREATE TABLE batches (
    id TEXT PRIMARY KEY,
    input TEXT NOT NULL,                -- a file, which may be gone once the batch has ended
    endpoint TEXT NOT NULL,
    metadata TEXT,                      -- JSON
    key TEXT UNIQUE,                    -- of idempotency, with the digest of the body
    digest BLOB,
    output_ttl REAL,                    -- seconds that its outputs are kept; NULL for the usual
    created REAL NOT NULL,
    expires REAL NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('validating', 'in_progress', 'finalizing', 'cancelling',
                                           'completed', 'failed', 'expired', 'cancelled')),
    ending TEXT,                        -- the status that follows `finalizing`
    started REAL,
    finalizing REAL,
    cancelling REAL,
    ended REAL,
    total INTEGER NOT NULL DEFAULT 0,   -- lines with a request, once they are counted
    fed INTEGER NOT NULL DEFAULT 0,     -- how many of them have become jobs, or were refused
    line INTEGER NOT NULL DEFAULT 0,    -- the number of the last one
    position INTEGER NOT NULL DEFAULT 0,    -- where it ends in the file, in bytes
    unfinished INTEGER NOT NULL DEFAULT 0,  -- jobs that wait or run
    completed INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    errors TEXT,                        -- JSON: what is wrong with the file
    output TEXT,
    error TEXT,
    CHECK ((ended IS NULL) = (status IN ('validating', 'in_progress', 'finalizing', 'cancelling')))
) STRICT;

CREATE INDEX batches_unfinished ON batches (id) WHERE ended IS NULL;
CREATE INDEX batches_by_input ON batches (input) WHERE ended IS NULL;
CREATE INDEX batches_by_end ON batches (ended) WHERE ended IS NOT NULL;

-- One row for each line that was fed: it is written with its job, and there is never a second.
CREATE TABLE batch_lines (
    batch TEXT NOT NULL REFERENCES batches (id) ON DELETE CASCADE,
    line INTEGER NOT NULL,
    custom_id TEXT NOT NULL,
    job TEXT,                           -- NULL where the request was refused
    error_code TEXT,
    error_message TEXT,
    error_param TEXT,
    PRIMARY KEY (batch, line)
) STRICT, WITHOUT ROWID;

-- A job of a batch has it for its client.
CREATE TRIGGER counted_in_batch AFTER UPDATE OF finished ON jobs
WHEN new.door = 'batch' AND (old.finished IS NULL) <> (new.finished IS NULL) BEGIN
    UPDATE batches SET
        unfinished = unfinished + (new.finished IS NULL) - (old.finished IS NULL),
        completed = completed + (new.state = 'done') - (old.state = 'done'),
        failed = failed + (new.state IN ('failed', 'expired', 'cancelled'))
                        - (old.state IN ('failed', 'expired', 'cancelled'))
    WHERE id = new.client AND ended IS NULL;
END;
"""

OWNERS = """
-- Whose it is: the name of a key, or nothing where it was made without one.
ALTER TABLE files ADD COLUMN owner TEXT NOT NULL DEFAULT '';
ALTER TABLE batches ADD COLUMN owner TEXT NOT NULL DEFAULT '';

-- What each key has used on each day, UTC's, such as 2026-11-23.
CREATE TABLE usage (
    day TEXT NOT NULL,
    name TEXT NOT NULL,
    requests INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    PRIMARY KEY (day, name)
) STRICT, WITHOUT ROWID;
"""

ENERGY = """
-- What was used for each key's requests, where it was measured.
ALTER TABLE usage ADD COLUMN energy_joules REAL;
"""

MIGRATIONS = (LEDGER, BATCHES, OWNERS, ENERGY)
