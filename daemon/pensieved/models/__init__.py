"""Models on disk: sources, acquiring, verifying, converting, the cache of prepared models."""
