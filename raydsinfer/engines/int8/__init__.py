"""Weights of decoder layers as 8-bit integers with a scale for each output; activations as they were."""
