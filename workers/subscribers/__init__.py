"""The consumers of journals, one file each."""
