"""Contract suites and fakes, shipped so that outside drivers can run them."""
