"""The SQL adapter of the store."""
