"""Whether a number of each token finds the tokens that are wrong."""
