-- The ledger of decisions: append-only, a hash chain for each zone, a partition for each month.
-- JSON stands as the canonical text that was hashed. Partitions: projections/audit_ledger.py.
CREATE TABLE audit_events (
    id                        text        NOT NULL,
    zone_id                   text        NOT NULL,
    event_type                text        NOT NULL,
    request_id                text        NOT NULL,
    decision                  text        NOT NULL,
    policy_set_id             text        NOT NULL,
    policy_set_version_id     text        NOT NULL,
    manifest_sha              text        NOT NULL,
    evaluation_status         text        NOT NULL,
    determining_policies_json text        NOT NULL,
    diagnostics_json          text        NOT NULL,
    metadata_json             text        NOT NULL,
    occurred_at               timestamptz NOT NULL,
    ingested_at               timestamptz NOT NULL DEFAULT now(),
    chain_seq                 bigint      NOT NULL,
    content_sha256            text        NOT NULL,
    prev_content_sha256       text,
    chain_hmac                text        NOT NULL,
    ingest_signature          text        NOT NULL,
    PRIMARY KEY (id, occurred_at)
) PARTITION BY RANGE (occurred_at);
CREATE INDEX audit_events_chain ON audit_events (zone_id, chain_seq);
CREATE INDEX audit_events_time ON audit_events (zone_id, occurred_at DESC, id DESC);
CREATE INDEX audit_events_request ON audit_events (zone_id, request_id);

-- Where each chain ends: so that a missing last row is noticed, too.
CREATE TABLE audit_chain_heads (
    zone_id        text        PRIMARY KEY,
    chain_seq      bigint      NOT NULL,
    content_sha256 text        NOT NULL,
    moved_at       timestamptz NOT NULL DEFAULT now()
);

-- One row a finding, however often it is found again.
CREATE TABLE audit_ingest_alerts (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id    text        NOT NULL,
    zone_id     text        NOT NULL,
    kind        text        NOT NULL,
    detail      text        NOT NULL,
    observed_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (zone_id, event_id, kind, detail)
);

-- Up to which entry id (position-n) each group of the audit topic has committed everything.
CREATE TABLE audit_watermarks (
    name     text        PRIMARY KEY,
    position bigint      NOT NULL,
    n        bigint      NOT NULL,
    moved_at timestamptz NOT NULL DEFAULT now()
);

-- What the ledger's writer may do. Where roles cannot be made, it writes as the owner.
DO $$ BEGIN
    CREATE ROLE caracal_audit NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation OR insufficient_privilege THEN NULL;
END $$;
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'caracal_audit') THEN
        GRANT SELECT, INSERT ON audit_events, audit_ingest_alerts TO caracal_audit;
        GRANT SELECT, INSERT, UPDATE ON audit_chain_heads, audit_watermarks TO caracal_audit;
        IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
            GRANT caracal_audit TO current_user;
        END IF;
    END IF;
EXCEPTION WHEN insufficient_privilege THEN NULL;
END $$;

-- The facts that a request caused, found in the log itself.
CREATE FUNCTION request_of(state bytea) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN substring(state FROM 1 FOR 1) = '{'  -- what is no object names no request
        THEN convert_from(state, 'UTF8')::json -> 'meta' ->> 'request_id' END;
CREATE INDEX log_request ON log (request_of(state)) WHERE request_of(state) IS NOT NULL;
