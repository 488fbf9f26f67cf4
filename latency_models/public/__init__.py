"""The shipped devices, rebuilt from public measurements: one module a device, plus readers of the data.

Needs scipy and the folder of measurements; nothing here is needed to predict.
"""
