"""Closed forms: the policy that a loss should reach, read off its parts."""
