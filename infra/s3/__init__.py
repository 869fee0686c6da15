"""Sets up the bucket of the store: rights, versioning, encryption, retention."""
