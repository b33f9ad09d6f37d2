"""Two models in a row on the built-in world: a rewriter and an answerer, one preference on the answer."""
