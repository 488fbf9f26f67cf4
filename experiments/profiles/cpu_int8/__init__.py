"""The same Cortex-A76 under TFLite int8: the form of `cpu`, fitted to the int8 times of the same networks."""
