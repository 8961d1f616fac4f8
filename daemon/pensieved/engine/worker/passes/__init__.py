"""Passes of a model: whose rows go through it together, in which shapes, and where their KV caches are."""
