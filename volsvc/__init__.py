"""A standalone block-storage service that speaks Cinder's REST v3 API."""

__version__ = "0.1.0"
