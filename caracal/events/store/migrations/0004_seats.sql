-- Counted things that may end by themselves: the guards seat, free_seats, no_seats of append_events.
CREATE TABLE guard_seat (
    key   text        NOT NULL,
    owner text        NOT NULL,
    until timestamptz,
    PRIMARY KEY (key, owner)
);

-- What guards hold since this version, of a log that is older: the newest key of each zone ...
INSERT INTO guard_key
SELECT DISTINCT ON (1) 'signing_key:' || (event -> 'meta' ->> 'zone_id'), event ->> 'aggregate_id'
FROM (SELECT position, convert_from(state, 'UTF8')::jsonb AS event FROM log WHERE name = 'signing_key.created') AS made
ORDER BY 1, position DESC
ON CONFLICT DO NOTHING;

-- ... the zones that let clients register ...
INSERT INTO guard_key
SELECT 'dcr_enabled:' || zone_id, zone_id
FROM (
    SELECT DISTINCT ON (zone_id) zone_id, enabled
    FROM (
        SELECT position, event ->> 'aggregate_id' AS zone_id,
            coalesce(event -> 'dcr_enabled', event -> 'changes' -> 'dcr_enabled') AS enabled
        FROM (SELECT position, convert_from(state, 'UTF8')::jsonb AS event FROM log
            WHERE name IN ('zone.created', 'zone.changed')) AS told
    ) AS said
    WHERE enabled IS NOT NULL
    ORDER BY zone_id, position DESC
) AS zones
WHERE enabled = 'true' AND EXISTS (SELECT FROM guard_key WHERE key = 'live:zone:' || zone_id)
ON CONFLICT DO NOTHING;

-- ... and the applications that have registered themselves.
INSERT INTO guard_seat
SELECT 'dcr:' || (event -> 'meta' ->> 'zone_id'), event ->> 'aggregate_id', (event ->> 'expires_at')::timestamptz
FROM (SELECT convert_from(state, 'UTF8')::jsonb AS event FROM log WHERE name = 'application.created') AS made
WHERE event ->> 'registration_method' = 'dcr'
    AND EXISTS (SELECT FROM guard_key WHERE key = 'live:application:' || (event ->> 'aggregate_id'))
ON CONFLICT DO NOTHING;
