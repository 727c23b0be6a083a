"""Migrations of the key server."""
