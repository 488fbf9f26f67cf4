"""The same Cortex-A76 under TFLite fp32 at 2.42 GHz: the form of `cpu`, fitted to the times at this clock."""
