"""The latency model of a device: a sum over fused kernels, each priced by its kind's physical form.

A pure function of a `DeviceProfile`; nothing is learned here and nothing is stored elsewhere.
Not for whole spaces (`table`) and not for fitting to measurements (`fit`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp, log

from device_profiles import Calibration, DeviceProfile, FusionRules, Kernel, KindModel
from latency_models.features import COORDINATES, FEATURES, SHAPES, form_ms
from latency_models.fuse import fuse
from latency_models.intervals import rank_quantiles
from latency_models.residual import GaussianProcess, coordinates, fit_residual
from latency_models.support import KernelSupport, Support, kernel_name, outside
from search_space.errors import BadFile, UnknownName, UserError
from search_space.layer import Node
from search_space.lower import Segment, image_side

RUNTIME = "runtime"  # the name of what a network pays beside its segments


STAND_INS = {"hard_swish": "gelu", "transpose": "concat"}
"""Kernel kinds that older profiles lack -> the kind whose price they are given there, as derived."""
STAND_IN_FACTOR = 4.0  # by what such a price may be off either way: a judgement


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
    _models: Mapping[str, KindModel] = field(init=False, repr=False, compare=False)
    _residuals: dict[str, GaussianProcess] = field(default_factory=dict, init=False, repr=False, compare=False)
    _kernels: dict[Kernel, Price] = field(default_factory=dict, init=False, repr=False, compare=False)
    _blocks: dict[tuple[Node, ...], Price] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        interval = self.profile.header.interval
        low, high = rank_quantiles(interval.low_scores, interval.high_scores, self.coverage)
        object.__setattr__(self, "_factors", (min(low, 1.0), max(high, 1.0)))
        object.__setattr__(self, "_models", _with_stand_ins(self.profile.header.models))

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

    def support(self, segments: Sequence[Segment]) -> Support:
        """What the prediction of a network rests on. Raises `UserError` for a kernel without a model."""
        kernels = Counter(kernel for segment in segments for kernel in fuse(segment.nodes, self.fusion))
        total = sum((self.block_price(segment.nodes) for segment in segments), self.runtime_price)
        groups: dict[tuple[str, int, str], list[Kernel]] = {}
        for kernel in kernels:
            row = self.profile.by_kernel.get(kernel)
            origin = row.origin if row else self.kind_model(kernel).origin_of(kernel.spec.kernel_size)
            groups.setdefault((kernel.price_kind, kernel.spec.kernel_size, origin), []).append(kernel)

        def ms(group: Iterable[Kernel]) -> float:
            return sum(kernels[kernel] * self.kernel_price(kernel).ms for kernel in group)

        width = total.high_ms - total.low_ms
        found = []
        for (kind, size, origin), group in groups.items():
            prices = [(kernels[kernel], self.kernel_price(kernel)) for kernel in group]
            found.append(
                KernelSupport(
                    kind,
                    size,
                    origin,
                    self.kind_model(group[0]).count(size),
                    share=_part(ms(group), total.ms),
                    untimed=_part(ms(kernel for kernel in group if not self._is_timed(kernel)), total.ms),
                    width=_part(sum(count * (price.high_ms - price.low_ms) for count, price in prices), width),
                )
            )
        found.sort(key=lambda one: (-one.width, one.kind, one.kernel_size))
        derived = min(1.0, sum(one.share for one in found if one.derived))
        return Support(derived, tuple(found), tuple(self._outside(segments, list(kernels), total.ms)))

    def _is_timed(self, kernel: Kernel) -> bool:
        row = self.profile.by_kernel.get(kernel)
        return row is not None and row.origin == "measured"

    def _outside(self, segments: Sequence[Segment], kernels: Sequence[Kernel], total_ms: float) -> Iterator[str]:
        """What of a network lies beyond the range that the profile was fitted in."""
        fitted = self.profile.header.fitted_range
        if not kernels:
            return
        ends = [outside("image of", image_side(segments), fitted.get("resolution"), " pixels a side")]
        ends.append(outside("network of", total_ms / self.scale.factor, fitted.get("network_ms"), " ms"))
        yield from filter(None, ends)
        for kind in dict.fromkeys(kernel.price_kind for kernel in kernels):
            model = self._models[kind]
            of_kind = [kernel for kernel in kernels if kernel.price_kind == kind and not self._is_timed(kernel)]
            for name, read in SHAPES.items():
                values = {read(kernel): kernel.spec.kernel_size for kernel in of_kind}
                for value in sorted({min(values), max(values)} if values else ()):
                    lead = f"{kernel_name(kind, values[value])} with"
                    if said := outside(lead, value, model.fitted_range.get(name), f" {name}"):
                        yield said

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
                widen = model.widening(kernel.spec.kernel_size) * exp(deviation)
                price = self._with_interval(share * ms, widen, others)
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
        named = self.kind_model(kernel).residual
        assert named is not None
        mean, deviation = residual.at(coordinates([kernel], named))
        return ms * exp(float(mean[0])), float(deviation[0])

    def form_ms(self, kernel: Kernel) -> float:
        """The physical form alone."""
        return form_ms(self.kind_model(kernel), kernel, self.profile.header.lanes)

    def _form_ms(self, kernel: Kernel, coefficients: Mapping[str, float]) -> float:
        lanes = self.profile.header.lanes
        return sum(c * FEATURES[name](kernel, lanes) for name, c in coefficients.items())

    def _other_guesses(self, kind: str) -> list[Mapping[str, float]]:
        """The coefficients that the profile's scenarios give a kind."""
        guesses = [scenario.coefficients for scenario in self.profile.header.scenarios.values()]
        return [coefficients[kind] for coefficients in guesses if kind in coefficients]

    def _residual(self, kind: str) -> GaussianProcess | None:
        residual = self._models[kind].residual
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
        models = self._models
        if kernel.price_kind not in models:
            raise UserError(
                f"device '{self.profile.name}' has no model of kernel kind '{kernel.price_kind}' ({kernel}); "
                f"it has {', '.join(self.profile.header.models)}; add it to the device's profile"
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
    forms = [*(form for model in models for form in (model.coefficients, *model.sizes.values())), *guesses]
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


def _with_stand_ins(models: Mapping[str, KindModel]) -> dict[str, KindModel]:
    found = dict(models)
    for kind, other in STAND_INS.items():
        if kind not in models and other in models:
            found[kind] = replace(
                models[other],
                origin="derived",
                source=f"the price of {other}: this profile has none of its own",
                support={},
                widen=models[other].widen * STAND_IN_FACTOR,
                judged=f"another kind's price ({other})",
                widen_sizes={},
                fitted_range={},
                residual=None,
            )
    return found


def _part(ms: float, total: float) -> float:
    return min(1.0, ms / total) if total > 0 else 0.0


def _check_names(device: str, what: str, names: Iterable[str], known: Mapping[str, object]) -> None:
    for name in names:
        if name not in known:
            raise BadFile(f"{device}/device.yaml: unknown {what} '{name}'; known: {', '.join(known)}")
