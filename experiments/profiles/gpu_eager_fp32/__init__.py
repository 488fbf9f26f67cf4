"""The A100 under eager PyTorch fp32: single kernels measured alone, the level set by five whole networks."""
