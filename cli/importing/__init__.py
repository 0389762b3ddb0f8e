"""`daybook import`: transactions from a CSV file, through bulk HTTP, resumable."""
