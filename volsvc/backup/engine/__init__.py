"""Making, reading, checking and deleting backups; knows block sources and stores, not the service."""
