"""The regional hub: patient index, study locator, a copy of consents. It permits nothing, and never sees an image."""
