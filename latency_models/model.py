"""The latency model of a device: a sum over fused kernels, each priced by its kind's physical form.

A pure function of a `DeviceProfile`; nothing is learned here and nothing is stored elsewhere.
Not for whole spaces (`table`) and not for fitting to measurements (`fit`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, log

from device_profiles import Calibration, DeviceProfile, FusionRules, Kernel, KindModel
from latency_models.features import COORDINATES, FEATURES
from latency_models.fuse import fuse
from latency_models.intervals import rank_quantiles
from latency_models.residual import GaussianProcess, coordinates, fit_residual
from search_space.errors import BadFile, UnknownName, UserError
from search_space.layer import Node
from search_space.lower import Segment

RUNTIME = "runtime"  # the name of what a network pays beside its segments


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
    """Predicts networks given as segments of layers.

    A kernel's time is its row in the table where there is one, else its kind's form with the residual
    that the rows teach. `scale` multiplies every time and may leave kernel kinds out; `coverage` is the
    share of networks that intervals claim to hold. Prices are remembered per kernel and per block.
    """

    profile: DeviceProfile
    scale: Calibration
    coverage: float
    _factors: tuple[float, float] = field(init=False, repr=False, compare=False)
    _residuals: dict[str, GaussianProcess] = field(default_factory=dict, init=False, repr=False, compare=False)
    _kernels: dict[Kernel, Price] = field(default_factory=dict, init=False, repr=False, compare=False)
    _blocks: dict[tuple[Node, ...], Price] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        interval = self.profile.header.interval
        low, high = rank_quantiles(interval.low_scores, interval.high_scores, self.coverage)
        object.__setattr__(self, "_factors", (min(low, 1.0), max(high, 1.0)))

    @property
    def fusion(self) -> FusionRules:
        """What the runtime merges."""
        return self.profile.header.fusion

    @property
    def runtime_price(self) -> Price:
        """What every network pays beside its kernels."""
        return self._with_interval(self.profile.header.network_ms * self.scale.factor, 1.0)

    def predict(self, segments: Sequence[Segment]) -> Prediction:
        """A network without alternatives. Raises `UserError` for a kernel that the profile does not price."""
        total = sum((self.block_price(segment.nodes) for segment in segments), self.runtime_price)
        return Prediction(total.ms, total.low_ms, total.high_ms, self.coverage)

    def segment_ms(self, segments: Sequence[Segment]) -> dict[str, float]:
        """Times in ms by segment name, in order; their sum is `predict(segments).latency_ms`."""
        runtime = {RUNTIME: self.runtime_price.ms} if self.profile.header.network_ms else {}
        return runtime | {segment.name: self.block_price(segment.nodes).ms for segment in segments}

    def derived_share(self, segments: Sequence[Segment]) -> float:
        """The share (0..1) of predicted time in kernels that were derived, neither measured nor fitted.

        Predicted time includes what every network pays.
        """
        kernels = [kernel for segment in segments for kernel in fuse(segment.nodes, self.fusion)]
        derived = [k for k in kernels if self.kind_model(k).origin == "derived"]
        total = sum((self.kernel_price(k).ms for k in kernels), self.runtime_price.ms)
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
        """One kernel inside a network. Raises `UserError` if the profile has no model of its kind."""
        price = self._kernels.get(kernel)
        if price is None:
            model = self.kind_model(kernel)
            if kernel.price_kind in self.scale.unpriced:
                price = Price()
            else:
                ms, deviation = self.kernel_alone(kernel)
                share = model.in_network * self.scale.factor
                others = [share * self._form_ms(kernel, c) for c in self._other_guesses(kernel.price_kind)]
                price = self._with_interval(share * ms, model.widen * exp(deviation), others)
            self._kernels[kernel] = price
        return price

    def kernel_alone(self, kernel: Kernel) -> tuple[float, float]:
        """The ms of a kernel timed by itself, unscaled, and the standard deviation of its logarithm (0 for a row)."""
        row = self.profile.by_kernel.get(kernel)
        if row is not None:
            return row.latency_ms, 0.0
        ms = self.form_ms(kernel)
        residual = self._residual(kernel.price_kind)
        if residual is None:
            return ms, 0.0
        named = self.profile.header.models[kernel.price_kind].residual
        assert named is not None
        mean, deviation = residual.at(coordinates([kernel], named))
        return ms * exp(float(mean[0])), float(deviation[0])

    def form_ms(self, kernel: Kernel) -> float:
        """The physical form alone."""
        return self._form_ms(kernel, self.kind_model(kernel).coefficients)

    def _form_ms(self, kernel: Kernel, coefficients: Mapping[str, float]) -> float:
        lanes = self.profile.header.lanes
        return sum(c * FEATURES[name](kernel, lanes) for name, c in coefficients.items())

    def _other_guesses(self, kind: str) -> list[Mapping[str, float]]:
        """The coefficients that the profile's scenarios give a kind."""
        guesses = [scenario.coefficients for scenario in self.profile.header.scenarios.values()]
        return [coefficients[kind] for coefficients in guesses if kind in coefficients]

    def _residual(self, kind: str) -> GaussianProcess | None:
        residual = self.profile.header.models[kind].residual
        if residual is None:
            return None
        if kind not in self._residuals:
            rows = [r for r in self.profile.rows if r.kernel.price_kind == kind and r.origin == "measured"]
            if not rows:
                raise BadFile(f"{self.profile.name}/device.yaml: models.{kind} has a residual but no measured row")
            ratios = [log(row.latency_ms / self.form_ms(row.kernel)) for row in rows]
            self._residuals[kind] = fit_residual(residual, [row.kernel for row in rows], ratios)
        return self._residuals[kind]

    def _with_interval(self, ms: float, widen: float, others: Sequence[float] = ()) -> Price:
        """Around `ms`; with other guesses from below the cheapest to above the dearest."""
        low, high = self._factors
        guesses = (ms, *others)
        return Price(ms, min(guesses) * low / widen, max(guesses) * high * widen)

    def kind_model(self, kernel: Kernel) -> KindModel:
        """The model of a kernel's kind. Raises `UserError` naming the kinds that the profile prices."""
        models = self.profile.header.models
        if kernel.price_kind not in models:
            raise UserError(
                f"device '{self.profile.name}' has no model of kernel kind '{kernel.price_kind}' ({kernel}); "
                f"it has {', '.join(models)}; add it to the device's profile"
            )
        return models[kernel.price_kind]


def fit_latency_model(
    profile: DeviceProfile, calibration: str = "measured", confidence: float | None = None
) -> LatencyModel:
    """The model of a profile on the named scale of its header (`measured` is reality).

    confidence: the share of networks that stay below an interval's upper end, in (0.5, 1); without it
    the intervals have the profile's own coverage. Raises `UnknownName` for a scale that the profile
    lacks, `UserError` for a confidence that its held-out networks cannot claim, `BadFile` for an unknown feature.
    """
    header = profile.header
    if calibration not in header.calibration:
        raise UnknownName(f"calibration of device '{profile.name}'", calibration, header.calibration)
    models = header.models.values()
    guesses = [c for scenario in header.scenarios.values() for c in scenario.coefficients.values()]
    forms = [*(model.coefficients for model in models), *guesses]
    _check_names(profile.name, "feature", (feature for form in forms for feature in form), FEATURES)
    residuals = (model.residual for model in models if model.residual)
    _check_names(profile.name, "coordinate", (c for residual in residuals for c in residual.length_scales), COORDINATES)
    if confidence is None:
        return LatencyModel(profile, header.calibration[calibration], header.interval.coverage)
    if not 0.5 < confidence < 1:
        raise UserError(f"confidence={confidence:g} is not between 0.5 and 1")
    try:
        return LatencyModel(profile, header.calibration[calibration], coverage=2 * confidence - 1)
    except UserError as error:
        raise UserError(f"device '{profile.name}': confidence={confidence:g} is out of reach: {error}") from error


def _check_names(device: str, what: str, names: Iterable[str], known: Mapping[str, object]) -> None:
    for name in names:
        if name not in known:
            raise BadFile(f"{device}/device.yaml: unknown {what} '{name}'; known: {', '.join(known)}")
