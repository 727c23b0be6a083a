"""The console: pages on which a key server's administrator sees what it does, and decides what is not automatic."""
