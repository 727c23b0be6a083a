"""Pages on which registrars decide who is who: `/registrar` of the hub."""
