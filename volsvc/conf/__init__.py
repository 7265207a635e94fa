"""Option declarations, one module for each part; nothing here reads a value."""
