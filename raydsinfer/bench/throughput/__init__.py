"""Engines side by side on the same workloads; behind `raydsinfer bench throughput`."""
