-- Appends events under the log's lock and returns their positions, in order.
--
-- One writer at a time, so order of position is order of commit, and each guard is checked
-- serially: it may simply read. An advisory lock, because a table lock collides with vacuum.
-- A guard that does not hold raises CA001 with its number (from 0) as DETAIL.
-- Lists of keys are compared as arrays, by the index: of a list in JSON the planner knows no
-- length, and a join chosen for ten of them walks the table ten thousand times, under the lock.
CREATE OR REPLACE FUNCTION append_events(
    ids uuid[], versions int[], names text[], states bytea[], guards jsonb
) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
DECLARE
    guard jsonb;
    number int := -1;
    held boolean;
    positions bigint[];
BEGIN
    PERFORM pg_advisory_xact_lock(4846791580151137091);  -- 'CARACALC'
    FOR guard IN SELECT * FROM jsonb_array_elements(guards) LOOP
        number := number + 1;
        held := true;
        CASE guard->>'op'
        WHEN 'take' THEN
            INSERT INTO guard_key VALUES (guard->>'key', guard->>'owner') ON CONFLICT DO NOTHING;
            held := FOUND;
        WHEN 'free' THEN
            DELETE FROM guard_key
            WHERE key = ANY(ARRAY(SELECT jsonb_array_elements_text(guard->'keys')))
                AND owner = guard->>'owner';
        WHEN 'release' THEN  -- counters go down once, whoever ends a thing first
            WITH gone AS (
                DELETE FROM guard_key
                WHERE key = ANY(ARRAY(
                    SELECT thing->>'key' FROM jsonb_array_elements(guard->'things') AS thing))
                    AND owner = guard->>'owner' RETURNING key
            ), ended AS (  -- IS TRUE: looked up by hash, not joined as the planner guesses
                SELECT DISTINCT ON (thing->>'key') thing FROM jsonb_array_elements(guard->'things') AS thing
                WHERE (thing->>'key' IN (SELECT key FROM gone)) IS TRUE
            ), freed AS (
                DELETE FROM guard_key
                WHERE key = ANY(ARRAY(SELECT jsonb_array_elements_text(thing->'keys') FROM ended))
                    AND owner = guard->>'owner'
            ), down AS (
                SELECT counter, count(*) AS by
                FROM ended, jsonb_array_elements_text(thing->'counts') AS counter GROUP BY counter
            ) UPDATE guard_count c SET n = greatest(c.n - down.by, 0) FROM down WHERE c.key = counter;
        WHEN 'revive' THEN
            INSERT INTO guard_key SELECT pair->>0, guard->>'owner'
            FROM jsonb_array_elements(guard->'keys') AS pair
            WHERE EXISTS (SELECT FROM guard_key k
                          WHERE k.key = pair->>1 AND k.owner = guard->>'owner')
            ON CONFLICT DO NOTHING;
        WHEN 'need' THEN
            held := EXISTS (SELECT FROM guard_key WHERE key = guard->>'key');
        WHEN 'count' THEN
            INSERT INTO guard_count AS c VALUES (guard->>'key', greatest((guard->>'by')::bigint, 0))
            ON CONFLICT (key) DO UPDATE SET n = greatest(c.n + (guard->>'by')::bigint, 0)
            RETURNING c.n <= (guard->>'limit')::bigint OR (guard->>'by')::bigint < 0 INTO held;
        WHEN 'seat' THEN
            DELETE FROM guard_seat WHERE key = guard->>'key' AND until <= clock_timestamp();
            INSERT INTO guard_seat VALUES (guard->>'key', guard->>'owner', (guard->>'until')::timestamptz)
            ON CONFLICT DO NOTHING;
            held := FOUND AND (SELECT count(*) FROM guard_seat WHERE key = guard->>'key') <= (guard->>'limit')::bigint;
        WHEN 'free_seats' THEN
            DELETE FROM guard_seat
            WHERE key = guard->>'key' AND owner = ANY(ARRAY(SELECT jsonb_array_elements_text(guard->'owners')));
        WHEN 'no_seats' THEN
            held := NOT EXISTS (
                SELECT FROM guard_seat
                WHERE key = guard->>'key' AND (until IS NULL OR until > clock_timestamp()));
        WHEN 'edge' THEN
            INSERT INTO guard_edge VALUES (guard->>'owner', guard->>'a', guard->>'b') ON CONFLICT DO NOTHING;
            held := FOUND AND NOT EXISTS (
                WITH RECURSIVE reached (id) AS (
                    SELECT guard->>'b'
                    UNION SELECT e.target FROM guard_edge e JOIN reached r ON e.source = r.id
                ) SELECT FROM reached WHERE id = guard->>'a');
        WHEN 'inbound' THEN
            held := ARRAY(SELECT owner FROM guard_edge WHERE target = guard->>'target' ORDER BY owner)
                = ARRAY(SELECT owner FROM jsonb_array_elements_text(guard->'owners') AS owner ORDER BY owner);
        WHEN 'free_edges' THEN
            DELETE FROM guard_edge WHERE owner = ANY(ARRAY(SELECT jsonb_array_elements_text(guard->'owners')));
        WHEN 'secret' THEN
            INSERT INTO vault VALUES (guard->>'ref', guard->>'key_id',
                decode(guard->>'nonce', 'base64'), decode(guard->>'ciphertext', 'base64'))
            ON CONFLICT (ref) DO UPDATE SET key_id = excluded.key_id, nonce = excluded.nonce,
                ciphertext = excluded.ciphertext;
        WHEN 'erase' THEN
            DELETE FROM vault WHERE ref = ANY(ARRAY(SELECT jsonb_array_elements_text(guard->'refs')));
        END CASE;
        IF NOT held THEN
            RAISE EXCEPTION 'guard refused: %', guard - 'ciphertext'
                USING ERRCODE = 'CA001', DETAIL = number::text;
        END IF;
    END LOOP;
    WITH written AS (
        INSERT INTO log (aggregate_key, version, name, state)
        SELECT e.key, e.version, e.name, e.state
        FROM unnest(ids, versions, names, states) WITH ORDINALITY AS e (key, version, name, state, place)
        ORDER BY e.place
        RETURNING log.position
    ) SELECT array_agg(position ORDER BY position) INTO positions FROM written;
    PERFORM pg_notify('caracal_log', positions[array_length(positions, 1)]::text);
    RETURN QUERY SELECT unnest(positions);
END $$;
