"""Gangs: one Ray actor a rank, placed, started, called and stopped as a whole."""
