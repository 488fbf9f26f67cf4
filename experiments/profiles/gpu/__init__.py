"""The A100 under TensorRT fp16: the V100's kernels rescaled, the level set by six whole networks."""
