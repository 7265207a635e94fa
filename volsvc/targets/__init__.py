"""Targets: they own the way in which a client reaches a volume."""
