-- The decisions that read models are made of, in the order in which they came.
CREATE INDEX audit_events_decisions ON audit_events (ingested_at)
    WHERE event_type = 'admin_request';
