"""POST /v1/completions: the legacy route, which continues a text."""
