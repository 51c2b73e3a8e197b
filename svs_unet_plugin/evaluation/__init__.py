"""Scores out: metrics, oracles, one runner, one store, and a report."""
