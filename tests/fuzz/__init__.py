"""Damaged and hostile input for everything that reads from outside: ``python tests/fuzz --help``."""
