"""Backups: a store of objects, a format that describes itself, and the engine between volumes and store."""
