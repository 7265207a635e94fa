"""How a backup is written down: names, packs, pages and the root (doc/source/backup-format.rst)."""
