"""The health of an on-policy run: what its updates tell, the checks on that, and which of them fail first."""
