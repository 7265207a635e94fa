"""oslo.messaging behind a thin module: the doorbell, and the unix:// transport."""
