"""How fast Daybook is, as ratios to plain Postgres on the same server in the same run: `make bench`."""
