"""The Cortex-A76 under TFLite, fp32: an additive form fitted to 82 whole networks."""
