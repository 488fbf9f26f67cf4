"""A supernet before any training: whether its candidates share weights, and random weights. Not for trained ones."""

from __future__ import annotations

from dataclasses import replace

import torch

from nas.data import DataSet
from nas.run.distributed import with_global_norms
from nas.run.plan import Plan
from nas.run.settings import SearchSettings
from nas.supernet.network import Supernet
from nas.supernet.origin import is_published, origin_of
from search_space.build import to_channels_last

OWN_STEPS = 150  # weight steps a candidate, on average, from which on it has weights of its own


def weight_steps(plan: Plan, data: DataSet) -> int:
    """Weight steps of a whole search."""
    settings = plan.settings
    return (settings.warmup.epochs + settings.epochs) * data.steps(data.train, settings.train.batch_size)


def decided(plan: Plan, data: DataSet) -> Plan:
    """The plan with `train.share_weights` said: by itself, or by how many weight steps a candidate would have.

    Candidates that are cut out of a trained network share its weights, however long the training is.
    In `experiments.ground_truth` weights of their own ranked networks better (Kendall's tau 0.59 against 0.49) at some
    310 steps a candidate and no better (0.56, 0.58) at 60, where shared ones were 5 points ahead in accuracy.
    """
    train = plan.settings.train
    if train.share_weights is not None:
        return plan
    widest = max(len(slot.candidates) for slot in plan.space.slots)
    shared = keeps_statistics(plan.settings) or weight_steps(plan, data) / widest < OWN_STEPS
    train = replace(train, share_weights=shared)
    return replace(plan, settings=replace(plan.settings, train=train))


def new_supernet(plan: Plan, data: DataSet) -> Supernet:
    """With the random weights that the settings' seed gives."""
    settings = decided(plan, data).settings
    assert settings.train.share_weights is not None
    torch.manual_seed(settings.seed)
    supernet = Supernet(
        plan.space,
        settings.data.resolution,
        data.num_classes,
        share_weights=settings.train.share_weights,
        kept_statistics=keeps_statistics(settings),
    )
    to_channels_last(supernet)
    with_global_norms(supernet)
    return supernet.to(data.place.device)


def keeps_statistics(settings: SearchSettings) -> bool:
    """Whether the supernet's BatchNorms have the statistics of a trained network."""
    if settings.init is None:
        return False
    return is_published(settings.init) or origin_of(settings.init).keeps_statistics
