-- The decisions that read models are made of, in the order in which they came.
CREATE INDEX audit_events_decisions ON audit_events (ingested_at)
    WHERE event_type = 'admin_request';

-- Runs of each chain that retention has dropped, tied by the key of the ledger: the verification
-- passes over them, and over nothing else.
CREATE TABLE audit_chain_cuts (
    zone_id             text        NOT NULL,
    first_seq           bigint      NOT NULL,
    last_seq            bigint      NOT NULL,
    prev_content_sha256 text,
    content_sha256      text        NOT NULL,
    cut_hmac            text        NOT NULL,
    cut_at              timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (zone_id, first_seq)
);
