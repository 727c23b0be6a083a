"""The regional hub: patient index, study locator, consent registry. It never sees an image."""
