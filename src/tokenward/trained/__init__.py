"""Studies that train small models for minutes, each in a folder of its own."""
