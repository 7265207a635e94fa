"""Speaking NBD, the network block device protocol."""
