"""What every process needs: settings, storage, signed HTTP, audit log, logging."""
