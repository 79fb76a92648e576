"""Predictors behind Ray Data: what its actors run, how many there are, and how they end."""
