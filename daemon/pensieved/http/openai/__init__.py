"""The OpenAI dialects: chat completions, legacy completions, responses.

One folder a route: `schema` in, `translate` to neutral requests, `encode` back out, `resource` for HTTP. What
they share stands here.
"""
