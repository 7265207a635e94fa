"""JSON schemas of request bodies, one module for each resource; fields and limits are Cinder's."""
