"""`raydsinfer demo`: a small real model, prompts of our own, two CPU ranks."""
