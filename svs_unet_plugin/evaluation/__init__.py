"""Scores of estimates against references."""
