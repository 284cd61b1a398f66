"""A user's project, strictly typed; what mypy has to refuse is marked as ignored."""
