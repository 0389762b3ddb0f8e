"""Users: who can log in, and as what. Each is an actor of its own; no password ever comes here, nor its hash."""
