"""The engine room: a child process that runs the model, and what the daemon needs to rely on it.

`protocol` is the cut between the two. On the daemon's side `client` holds the running requests, `process` one
life of the child, `supervisor` the succession of lives, with `blame` and `brake` as its judgement. On the other
side `worker` is the child itself, the only package here that imports MLX.

The daemon keeps, for each request, the prompt and every id produced so far. That is all a new engine needs to go
on where a dead one stopped, so a death is a pause for whoever reads the stream, not an error.
"""
