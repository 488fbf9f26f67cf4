"""The latency model of a device: a sum over fused kernels, each priced by its kind's physical form.

A pure function of a `DeviceProfile`; nothing is learned here and nothing is stored elsewhere.
Not for whole spaces (`table`) and not for fitting to measurements (`fit`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from device_profiles import DeviceProfile, FusionRules, Kernel, KindModel
from latency_models.features import FEATURES
from latency_models.fuse import fuse
from search_space.errors import BadFile, UnknownName, UserError
from search_space.layer import Node
from search_space.lower import Segment


@dataclass(frozen=True, slots=True)
class Prediction:
    """Milliseconds at batch 1, and the interval claimed to hold a share `coverage` of networks."""

    latency_ms: float
    low_ms: float
    high_ms: float
    coverage: float


@dataclass(frozen=True, slots=True)
class Price:
    """Three additive sums in ms: the prediction and both ends of its interval."""

    ms: float = 0.0
    low_ms: float = 0.0
    high_ms: float = 0.0

    def __add__(self, other: Price) -> Price:
        return Price(self.ms + other.ms, self.low_ms + other.low_ms, self.high_ms + other.high_ms)


@dataclass(frozen=True)
class LatencyModel:
    """Predicts networks given as segments of layers. `scale` multiplies every time (1 = as measured).

    Prices are remembered per kernel and per block: networks repeat both.
    """

    profile: DeviceProfile
    scale: float = 1.0
    _kernels: dict[Kernel, Price] = field(default_factory=dict, init=False, repr=False, compare=False)
    _blocks: dict[tuple[Node, ...], Price] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def fusion(self) -> FusionRules:
        return self.profile.header.fusion

    @property
    def coverage(self) -> float:
        return self.profile.header.interval.coverage

    def predict(self, segments: Sequence[Segment]) -> Prediction:
        """A network without alternatives. Raises `UserError` for a kernel that the profile does not price."""
        total = sum((self.block_price(segment.nodes) for segment in segments), Price())
        return Prediction(total.ms, total.low_ms, total.high_ms, self.coverage)

    def segment_ms(self, segments: Sequence[Segment]) -> dict[str, float]:
        """ms per segment name, in order; their sum is `predict(segments).latency_ms`."""
        return {segment.name: self.block_price(segment.nodes).ms for segment in segments}

    def derived_share(self, segments: Sequence[Segment]) -> float:
        """The share (0..1) of predicted time in kernels that were derived, neither measured nor fitted."""
        kernels = [kernel for segment in segments for kernel in fuse(segment.nodes, self.fusion)]
        derived = [k for k in kernels if self.kind_model(k).origin == "derived"]
        total = sum(self.kernel_price(k).ms for k in kernels)
        return sum(self.kernel_price(k).ms for k in derived) / total if total else 0.0

    def support(self, segments: Sequence[Segment]) -> dict[str, int]:
        """Kernel kind and size ('dwconv k7') -> measured rows behind it, for every kernel of a network."""
        kernels = [kernel for segment in segments for kernel in fuse(segment.nodes, self.fusion)]
        sizes = {(k.price_kind, k.spec.kernel_size): self.kind_model(k) for k in kernels}
        return {
            f"{kind} k{size}": model.count(size) for (kind, size), model in sorted(sizes.items(), key=lambda i: i[0])
        }

    def block_price(self, nodes: tuple[Node, ...]) -> Price:
        """One block; 0 ms for an empty one."""
        price = self._blocks.get(nodes)
        if price is None:
            price = sum((self.kernel_price(kernel) for kernel in fuse(nodes, self.fusion)), Price())
            self._blocks[nodes] = price
        return price

    def kernel_price(self, kernel: Kernel) -> Price:
        """One kernel. Raises `UserError` if the profile has no model of its kind."""
        price = self._kernels.get(kernel)
        if price is None:
            model = self.kind_model(kernel)
            lanes = self.profile.header.lanes
            ms = sum(c * FEATURES[name](kernel, lanes) for name, c in model.coefficients.items()) * self.scale
            price = Price(ms, ms * model.low_factor, ms * model.high_factor)
            self._kernels[kernel] = price
        return price

    def kind_model(self, kernel: Kernel) -> KindModel:
        models = self.profile.header.models
        if kernel.price_kind not in models:
            raise UserError(
                f"device '{self.profile.name}' has no model of kernel kind '{kernel.price_kind}' ({kernel}); "
                f"it has {', '.join(models)}; add it to the device's profile"
            )
        return models[kernel.price_kind]


def fit_latency_model(profile: DeviceProfile, calibration: str = "measured") -> LatencyModel:
    """The model of a profile, scaled by the named factor of its header (`measured` is 1, reality).

    Raises `UnknownName` for a factor that the profile lacks, `BadFile` for an unknown feature.
    """
    header = profile.header
    if calibration not in header.calibration:
        raise UnknownName(f"calibration of device '{profile.name}'", calibration, header.calibration)
    _check_features(profile.name, (f for model in header.models.values() for f in model.coefficients))
    return LatencyModel(profile, scale=header.calibration[calibration])


def _check_features(device: str, names: Iterable[str]) -> None:
    for name in names:
        if name not in FEATURES:
            raise BadFile(f"{device}/device.yaml: unknown feature '{name}'; known: {', '.join(FEATURES)}")
