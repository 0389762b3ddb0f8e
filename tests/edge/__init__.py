"""What stands before the routes: layers, bodies, sessions, limits, the cache's protocol."""
