"""Where backups are kept: drivers that hold named objects."""
