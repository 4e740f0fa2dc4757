-- When admin tokens were used: telemetry, never rebuilt.
CREATE TABLE admin_token_uses (token_id text PRIMARY KEY, last_used_at timestamptz NOT NULL);

-- Tokens made before there was a key for each live one.
INSERT INTO guard_key
SELECT 'live:admin_token:' || (convert_from(made.state, 'UTF8')::jsonb->>'aggregate_id'),
    convert_from(made.state, 'UTF8')::jsonb->>'aggregate_id'
FROM log made
WHERE made.name = 'admin_token.created'
    AND NOT EXISTS (SELECT FROM log ended
        WHERE ended.aggregate_key = made.aggregate_key AND ended.name = 'admin_token.revoked')
ON CONFLICT DO NOTHING;
