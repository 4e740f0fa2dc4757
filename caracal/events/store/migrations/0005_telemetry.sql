-- Telemetry: told by heartbeats, no events, never rebuilt or compared.
CREATE TABLE agent_heartbeats (
    agent_id              text        PRIMARY KEY,
    last_heartbeat_at     timestamptz NOT NULL,
    heartbeat_deadline_at timestamptz
);
CREATE TABLE agent_service_heartbeats (
    service_id        text        PRIMARY KEY,
    health            text        NOT NULL,
    last_heartbeat_at timestamptz NOT NULL,
    metadata          jsonb       NOT NULL DEFAULT '{}'
);
CREATE INDEX agent_service_heartbeats_beating ON agent_service_heartbeats (last_heartbeat_at)
    WHERE health IN ('healthy', 'degraded');

-- When each background job of the worker last finished without an error.
CREATE TABLE job_ticks (
    job         text        PRIMARY KEY,
    every_ms    bigint      NOT NULL,
    finished_at timestamptz NOT NULL
);
