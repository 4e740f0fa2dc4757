from tests.backbone import db, log, redis

__all__ = ["db", "log", "redis"]
