"""The REST v3 API: a falcon application driven by one table of operations."""
