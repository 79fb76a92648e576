"""One adapter a model family: what stands between DeepSpeed's fused layers and transformers' models.

`adapters.py` lists them. A family is a file here (its `Adapter`), an entry in
`raydsinfer.engines.families.FAMILIES`, and a function of `raydsinfer.engines.kernel_limits` that says which
of its configurations the kernels cannot compute.
"""
