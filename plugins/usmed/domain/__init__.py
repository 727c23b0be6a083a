"""What all actors agree on, pure: no I/O, no clock, no threads, no randomness."""
