"""Limits of requests a minute, counted in Redis for all replicas (contract, section 12)."""

from __future__ import annotations

from caracal.events.store.redis_line import RedisLine
from caracal.services.windows import SharedWindow
from caracal.settings import Settings


class Limits:
    """One window for each kind of request. All raise 429 ``rate_limited``."""

    def __init__(self, redis: RedisLine, settings: Settings) -> None:
        def window(name: str, limit: int) -> SharedWindow:
            return SharedWindow(redis, f"coordinator:{name}", limit, by_clock=True)

        self.requests = window("global_rl", settings.coordinator_rate_limit_per_min)
        self.facade = window("v1_rl", settings.v1_rate_limit_per_min)
        self.verify = window("verify_rl", settings.verify_rate_limit_per_min)
        self.invocations = window("invocation_rl", settings.invocation_rate_limit_per_min)
        self.ready = window("ready_rl", settings.ready_rate_limit_per_min)
