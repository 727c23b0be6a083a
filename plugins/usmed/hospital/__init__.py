"""The hospital node: lookup, pull, release (enforcement at the source), retention."""
