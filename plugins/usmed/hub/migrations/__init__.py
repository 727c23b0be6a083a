"""The hub's tables: patient index, study locator, consent registry."""
