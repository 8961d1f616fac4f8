"""Text on one side, token ids on the other.

A conversation becomes prompt ids (`conversation`, `template`, `shape`, `tokenizer`); the ids that the
engine produces become neutral events (`detokenizer`, `segmenter`, `events`). Nothing here knows an HTTP
dialect or the engine.
"""
