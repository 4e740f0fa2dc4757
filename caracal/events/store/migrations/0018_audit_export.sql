-- What came into the ledger in an hour, for its export: rows lie in that order, so a BRIN is enough.
CREATE INDEX audit_events_ingested ON audit_events USING brin (ingested_at)
    WITH (pages_per_range = 32, autosummarize = on);
