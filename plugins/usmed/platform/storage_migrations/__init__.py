"""The tables that every process has: nonces and the audit log."""
