"""Generated modules in servers: one module here for each server."""
