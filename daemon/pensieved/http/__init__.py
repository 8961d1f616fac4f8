"""The HTTP front: a Falcon app under Waitress.

server, channel, listen      sockets, threads, what Waitress itself answers
app, observe, errors         routes, request ids, the request log, error envelopes
completion, admission        what every dialect shares: prompt, queue, engine, events
anthropic/                   one dialect: its schema in, its encoding out
"""
