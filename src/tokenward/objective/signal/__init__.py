"""Stage one: from a batch to token rewards, advantages and returns, without gradient."""
