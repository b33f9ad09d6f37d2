"""What a reference knows of the data, how far a policy drifted from it, where the mass went, what to do."""
