"""A ledger in plain Python, and what drives it side by side with the service."""
