"""Records made into Cinder's bodies, one module for each resource."""
