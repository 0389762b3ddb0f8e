"""The model: accounting and messages. No I/O: only the standard library and msgspec are imported here."""
