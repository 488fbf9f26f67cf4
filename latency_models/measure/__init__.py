"""Timing kernels and networks: the protocol, what to time, and what becomes of it. Imports torch nowhere.

A new runtime is one class with the members of `timing.Runtime`: its optimizations and what each merges, its precisions,
its packages, which form of a model it reads, and `load`.

- Of your own, from outside: put the class in a module that imports nothing of this project, and give its full dotted
  path, `python -m latency_models.profile runtime=package.module.Class`. An exported folder takes the module's file
  along as runtime.py. Results that come back are imported with the same `runtime=`: no file alone has code imported.
  Its errors are `ImportError` for a missing package and `ValueError`, of one line, for everything else.
- Shipped: the class in timing.py, since that file is copied to the device, and one line in its `RUNTIMES`.

tests/contracts/test_runtimes.py holds the laws that every runtime keeps.
"""
