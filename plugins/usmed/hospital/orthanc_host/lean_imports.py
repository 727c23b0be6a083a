"""Loads two libraries without what a node has no use for (20 MB). To be imported before anything that imports them."""

from usmed.platform.lean import without

with without("numpy", "requests", "tqdm", "PIL"):
    import pydicom.filewriter
with without("greenlet"):
    import sqlalchemy

__all__ = ["pydicom", "sqlalchemy"]
