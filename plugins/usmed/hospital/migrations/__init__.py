"""Migrations of the node's own tables."""
