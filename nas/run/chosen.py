"""What a run chose, worked out once: the network's layers, cost, budget and latency on every known device.

Export, result and report read it from here. Not for choosing: see `nas.choose`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from device_profiles import available_devices, load_profile
from latency_models import LatencyModel, fit_latency_model
from latency_models.support import LEAST_SHARE
from nas.published import best_published
from nas.run.plan import Plan
from nas.run.result import Budget, DeviceLatency, Resolution, SearchResult
from search_space import Architecture, Cost, GatePath, Segment, UserError, cost_of, lower
from search_space.errors import BadFile, one_line
from search_space.files import plain_name


@dataclass(frozen=True)
class Chosen:
    """A network for a number of classes, and what is known of it before its weights are.

    segments: its layers at deployment resolution, which cost, budget and latency are for. latency: predictions by
    device, the budget's first; unpriced: a sentence for every device that has none.
    """

    architecture: Architecture
    num_classes: int
    resolution: Resolution
    segments: tuple[Segment, ...]
    cost: Cost
    budget: Budget | None
    latency: Mapping[str, DeviceLatency]
    unpriced: tuple[str, ...] = ()
    gate_path: tuple[str, ...] | None = None

    @cached_property
    def training_segments(self) -> tuple[Segment, ...]:
        """Its layers at the resolution it is trained at."""
        return lower(self.architecture, self.resolution.training, self.num_classes)


@dataclass(frozen=True)
class LatencyModels:
    """The models of the known devices, each fitted when first asked for and then kept for the run."""

    fitted: dict[tuple[str, str, float | None], LatencyModel] = field(default_factory=dict)

    @staticmethod
    def of(plans: Sequence[Plan]) -> LatencyModels:
        """With those that the plans have fitted already."""
        return LatencyModels(
            {(p.settings.device, p.settings.calibration, p.settings.confidence): p.model for p in plans}
        )

    def model(self, device: str, calibration: str = "measured", confidence: float | None = None) -> LatencyModel:
        """Raises `UserError` for a device, calibration or confidence that is not there."""
        key = device, calibration, confidence
        if key not in self.fitted:
            self.fitted[key] = fit_latency_model(load_profile(device), calibration, confidence)
        return self.fitted[key]

    def everywhere(
        self, segments: Sequence[Segment], budget: Budget | None = None
    ) -> tuple[dict[str, DeviceLatency], tuple[str, ...]]:
        """Predicted latency by device, the budget's first and with its confidence; and a sentence for each without one.

        Whatever another device's files hold, it spoils no result for the budget's device: a profile that is broken,
        that timed other kinds of kernels, or whose times are beyond all numbers is a sentence. The budget's
        calibration holds for every device that has it; the others are as measured.
        Raises `UserError` where the budget's own device cannot price the network.
        """
        priced, unpriced = {}, []
        for name in dict.fromkeys((*([budget.device] if budget else []), *available_devices())):
            try:
                priced[name] = self._on(name, segments, budget)
            except Exception as error:  # a broken file can lead astray anything that reads it
                if budget and budget.device == name:
                    raise
                said = str(error) if isinstance(error, UserError) else f"its profile is broken ({one_line(error)})"
                unpriced.append(f"No latency on '{plain_name(name)}': {' '.join(said.split())}")
        return priced, tuple(unpriced)

    def _on(self, name: str, segments: Sequence[Segment], budget: Budget | None) -> DeviceLatency:
        if budget and budget.device == name:
            model, calibration = self.model(name, budget.calibration, budget.confidence), budget.calibration
        else:
            model, calibration = self.model(name), "measured"
            if budget and budget.calibration in model.profile.header.calibration:
                calibration = budget.calibration
                model = self.model(name, calibration)
        predicted = model.predict(segments)
        by_segment_ms = model.segment_ms(segments)
        times = (predicted.latency_ms, predicted.low_ms, predicted.high_ms, *by_segment_ms.values())
        if not all(map(math.isfinite, times)):
            raise BadFile("its profile gives times that are not finite")
        return DeviceLatency(
            title=model.profile.title,
            runtime=model.profile.runtime,
            precision=model.profile.precision,
            latency_ms=predicted.latency_ms,
            low_ms=predicted.low_ms,
            high_ms=predicted.high_ms,
            coverage=predicted.coverage,
            profile_hash=model.profile.digest,
            by_segment_ms=by_segment_ms,
            calibration=calibration,
            support=model.support(segments),
        )


def thin_candidates(
    model: LatencyModel, architecture: Architecture, segments: Sequence[Segment]
) -> Mapping[str, float]:
    """The share of the time that rests on little (`Support.thin`), by candidate, the largest first.

    segments: of the architecture. Shares below `LEAST_SHARE` are left out.
    """
    total, names = model.predict(segments).latency_ms, [str(block) for stage in architecture.stages for block in stage]
    found: dict[str, float] = {}
    for name, segment in zip(names, (s for s in segments if s.slot is not None), strict=True):
        alone = [segment]
        own = model.support(alone).thin * model.predict(alone).latency_ms / total
        found[name] = found.get(name, 0.0) + own
    return {name: share for name, share in sorted(found.items(), key=lambda item: -item[1]) if share >= LEAST_SHARE}


def chosen_by_search(plan: Plan, path: GatePath, num_classes: int, models: LatencyModels) -> Chosen:
    """A search's network, checked against its budget by the full predictor and count, not by the tables that chose it.

    num_classes: of the images; those of the plan, which budget and limits are for, may be others.
    Raises `AssertionError` where the budget is exceeded, which no choice may do.
    """
    settings = plan.settings
    architecture = plan.space.architecture(path)
    planned = lower(architecture, settings.deployment_resolution, plan.num_classes)
    plan.limits.check(cost_of(planned))
    predicted = plan.model.predict(planned)
    kept_ms = predicted.high_ms if settings.confidence else predicted.latency_ms
    used = kept_ms / settings.budget_ms
    if used > 1 + 1e-9:
        raise AssertionError(f"the chosen network takes {kept_ms} ms of {settings.budget_ms} ms")
    budget = Budget(
        device=settings.device,
        budget_ms=settings.budget_ms,
        predicted_ms=predicted.latency_ms,
        used=used,
        binds=plan.binds,
        space_min_ms=plan.table.minimum_ms,
        space_max_ms=plan.table.maximum_ms,
        confidence=settings.confidence,
        kept_ms=kept_ms,
        calibration=settings.calibration,
        limits=plan.limits.most,
        thin=thin_candidates(plan.model, architecture, planned),
        published=best_published(plan.model, settings.budget_ms, settings.confidence is not None, settings.calibration),
    )
    resolution = Resolution(settings.deployment_resolution, settings.data.resolution)
    same = num_classes == plan.num_classes
    segments = planned if same else lower(architecture, settings.deployment_resolution, num_classes)
    latency, unpriced = models.everywhere(segments, budget)
    names = tuple(str(slot.candidates[choice]) for slot, choice in zip(plan.space.slots, path.choices, strict=True))
    return Chosen(
        architecture, num_classes, resolution, segments, cost_of(segments), budget, latency, unpriced, gate_path=names
    )


def chosen_before(found: SearchResult, num_classes: int, training_resolution: int) -> Chosen:
    """An earlier result's network, for another number of classes and training resolution.

    It is priced by the profiles as they are now.
    """
    models = LatencyModels()
    segments = lower(found.architecture, found.resolution.deployment, num_classes)
    budget = found.budget
    if budget is not None:
        model = models.model(budget.device, budget.calibration, budget.confidence)
        predicted = model.predict(segments)
        kept_ms = predicted.high_ms if budget.confidence else predicted.latency_ms
        budget = replace(
            budget,
            predicted_ms=predicted.latency_ms,
            kept_ms=kept_ms,
            used=kept_ms / budget.budget_ms,
            thin=thin_candidates(model, found.architecture, segments),
            published=best_published(model, budget.budget_ms, budget.confidence is not None, budget.calibration),
        )
    latency, unpriced = models.everywhere(segments, budget)
    resolution = Resolution(found.resolution.deployment, training_resolution)
    return Chosen(
        found.architecture,
        num_classes,
        resolution,
        segments,
        cost_of(segments),
        budget,
        latency,
        unpriced,
        gate_path=found.gate_path,
    )
