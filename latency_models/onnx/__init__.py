"""Reading any ONNX classification model as layers that a latency model prices."""
