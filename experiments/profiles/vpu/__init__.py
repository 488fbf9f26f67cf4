"""The Myriad X under OpenVINO fp16: layer counters and micro-benchmarks for kernels, whole networks for the level."""
