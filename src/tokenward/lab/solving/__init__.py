"""The same losses, solved: tabular policies, exact expectations, optimizers."""
