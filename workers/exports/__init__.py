"""Exports: what of a ledger is written out, in which format, and how."""
