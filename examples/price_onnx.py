"""The predicted latency of an ONNX model on every known device: `python examples/price_onnx.py [MODEL.onnx]`.

Without a model of yours, one of this project's spaces is written first and priced.
"""

import random
import sys
from pathlib import Path

from device_profiles import available_devices, load_profile
from latency_models import fit_latency_model
from latency_models.onnx.reader import read_onnx
from search_space import UserError, load_space, lower
from search_space.build import Network
from search_space.to_onnx import to_onnx

if len(sys.argv) > 1 and sys.argv[1].endswith(".onnx"):
    path = Path(sys.argv[1])
else:
    path = Path("mobile.onnx")
    segments = lower(load_space("proxyless").random_architecture(random.Random(0)), 224, 1000)
    weights = {name: value.numpy() for name, value in Network(segments).state_dict().items()}
    path.write_bytes(to_onnx(segments, weights).SerializeToString())

network = read_onnx(path)
for note in network.notes:
    print(f"note: {note}")
for name in available_devices():
    try:
        model = fit_latency_model(load_profile(name))
        found, words = model.predict(network.segments), model.support(network.segments).words
    except UserError as error:
        print(f"{name}: {error}")
    else:
        print(
            f"{name}: {found.latency_ms:.4g} ms ({found.low_ms:.4g}..{found.high_ms:.4g}, {found.coverage:.0%}) {words}"
        )
