"""What `pensieved doctor` looks at: one file a subject, each a function from what was found to findings.

They live with the commands because they look into every room at once (settings, cache, port, launchd, MLX), which
nobody else may. They repair nothing, ask no network but this machine's own daemon, and say what to do in the words
of the commands that do it.

finding      the form of what is said
scene        what is looked at: configuration, agent, daemon; gathered once, whatever of it is broken
run          all checks in order, none of which can take the others down
"""
