from tests.audit.trail import ingestor, trail
from tests.backbone import db, log, redis

__all__ = ["db", "ingestor", "log", "redis", "trail"]
