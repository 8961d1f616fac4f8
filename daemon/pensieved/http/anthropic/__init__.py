"""The Anthropic Messages dialect: `schema` in, `translate` to neutral requests, `encode` back out."""
