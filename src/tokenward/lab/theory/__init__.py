"""Statements of papers that stand beside the methods, computed exactly."""
