"""Volume drivers: they own storage."""
