"""The control plane: makes what is observed (cache, engine) equal what is desired (settings)."""
