"""From logits to tokens: sampling, grammars, log-probabilities."""
