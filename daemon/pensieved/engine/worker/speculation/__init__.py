"""Several tokens of a request in one pass: a draft of what comes next, computed as if it were true, and kept as far as it is.

The draft needs no second model: text that is summarised, edited or quoted repeats what was read before (`history`).
Whether a pass that carries drafts is worth its time is measured, not assumed (`gain`). The pass is `ahead`'s.
"""
