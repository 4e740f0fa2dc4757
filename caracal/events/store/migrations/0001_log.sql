-- The log: where facts are kept. Its only writer is append_events (append.sql).
CREATE TABLE log (
    position      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    aggregate_key uuid   NOT NULL,
    version       int    NOT NULL,
    name          text   NOT NULL,
    state         bytea  NOT NULL,
    CONSTRAINT log_version UNIQUE (aggregate_key, version)
);
CREATE INDEX log_name ON log (name, position);

-- A random name of this log; a restored backup gets another one, and everything derived is rebuilt.
CREATE TABLE log_identity (log_id uuid PRIMARY KEY, single boolean NOT NULL DEFAULT true UNIQUE CHECK (single));
INSERT INTO log_identity (log_id) VALUES (gen_random_uuid());

-- What the guards of append_events hold.
CREATE TABLE guard_key (key text PRIMARY KEY, owner text NOT NULL);
CREATE TABLE guard_count (key text PRIMARY KEY, n bigint NOT NULL);
CREATE TABLE guard_edge (owner text PRIMARY KEY, source text NOT NULL, target text NOT NULL);
CREATE INDEX guard_edge_source ON guard_edge (source);
CREATE TABLE vault (ref text PRIMARY KEY, key_id text NOT NULL, nonce bytea NOT NULL, ciphertext bytea NOT NULL);

-- Where projections stand. (position, n) is the full id of the last entry applied.
CREATE TABLE checkpoints (
    projection text   NOT NULL,
    topic      text   NOT NULL,
    position   bigint NOT NULL DEFAULT 0,
    n          int    NOT NULL DEFAULT 0,
    PRIMARY KEY (projection, topic)
);
CREATE TABLE parked (
    projection   text        NOT NULL,
    aggregate_id text        NOT NULL,
    topic        text        NOT NULL,
    position     bigint      NOT NULL,
    n            int         NOT NULL,
    ids          text[]      NOT NULL,
    error        text        NOT NULL,
    attempts     int         NOT NULL,
    parked_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (projection, aggregate_id, topic)
);
CREATE TABLE read_models (projection text PRIMARY KEY, shape text NOT NULL);
