"""Mixtures to train on: excerpts drawn in memory, and soundscapes by scaper."""
