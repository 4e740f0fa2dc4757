from tests.backbone import log

__all__ = ["log"]
