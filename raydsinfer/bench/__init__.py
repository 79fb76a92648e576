"""Measures the library on models with random weights; behind `raydsinfer bench`."""
