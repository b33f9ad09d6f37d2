"""The lab: worlds small enough to enumerate, where the policy that a recipe should reach is known exactly."""
