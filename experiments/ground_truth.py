"""Is the network that a search finds under a budget the best one? Every network of a small space is trained to know.

Question   In a space of 80 networks (kernel 3 or 7, expansion 1 or 6, one or two blocks in the first of two stages)
           where each is trained on its own, three times: by how much does the network that a strategy exports under a
           latency budget fall short of the truly best one under it (regret)? How well do accuracies with the
           weights inherited from a supernet rank the networks (Kendall's tau), with weights shared between a slot's
           candidates and without?
Data       CIFAR-10 at 32 pixels: 10,000 of its train images train weights (the networks' and the supernets'),
           10,000 others choose (the best networks differ by tenths of a point, and 2,500 images give an accuracy to
           a point only); true accuracy is on the 10,000 test images, which no search sees.
Command    python -m experiments.ground_truth data=../shared/datasets [minutes=60] [jobs=2]
           python -m experiments.ground_truth show
           python -m experiments.ground_truth space=deeper out=experiments/results/ground_truth_deeper.json
Cost       About 80 CPU-minutes for all, in jobs of 7 to 65 seconds; seed by seed, so that a part is of use.
Expected   Mean regret at most 0.5 points and less than half of random search's at equal cost.

Latency is the device profile's prediction at 224 pixels. Budgets have no lower bound (use_at_least=0): between 97 and
100 % of a budget lie none to four of the 80 networks, and the bound would choose instead of the search.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from typing import TYPE_CHECKING

from experiments.jobs import Work, run_jobs
from experiments.results import Value, profile_digests
from experiments.truth_tables import render
from experiments.truth_work import SPACES, Job, Scale, Worker, all_paths
from search_space.errors import UnknownName

if TYPE_CHECKING:
    from latency_models.options import Options

KINDS = ("space", "network", "supernet", "front", "search")
OPTIONS = {
    "data": "folder of CIFAR-10 (default: ../shared/datasets)",
    "space": "a file of experiments/spaces that holds few networks (default: ground_truth)",
    "device": "the device whose latency the budgets limit (default: cpu)",
    "kinds": f"which jobs, with commas between (default: {','.join(KINDS)})",
    "seeds": "trainings of each network, supernets and searches of each kind (default: 3)",
}
QUICK = Scale("miniature", "digits", limit=400, choosing=None, epochs=1, warmup=1, search=1, short=1, budgets=(0.5,))


def jobs_of(scale: Scale, seeds: int) -> list[Job]:
    """Seed by seed and the networks shuffled, so that a part of them is of use."""
    networks = [str(scale.space.architecture(path)) for path in all_paths(scale.space)]
    random.Random(0).shuffle(networks)
    jobs = [Job("space")]
    for seed in range(seeds):
        jobs += [Job("network", seed, network=network) for network in networks]
        for kind in ("supernet", "front"):
            jobs += [Job(kind, seed, share_weights=shared) for shared in (True, False)]
        jobs += [Job("supernet", seed, share_weights=shared, short=True) for shared in (True, False)]
    for seed, shared, budget in product(range(seeds), (True, False), scale.budgets):
        jobs.append(Job("search", seed, share_weights=shared, budget=budget))
    return jobs


def prepare(options: Options, quick: bool) -> Work[Job]:
    """The jobs asked for, seed by seed, and what does them; `quick`: at the scale of `QUICK`.

    Raises `UnknownName` for a space without a file or a kind of job that is none of `KINDS`, `UserError` for an option
    of another type.
    """
    space, spaces = options.text("space", Scale.space_name), sorted(path.stem for path in SPACES.glob("*.yaml"))
    if space not in spaces:
        raise UnknownName("space", space, spaces)
    scale = QUICK if quick else Scale(space)
    device, seeds = options.text("device", "cpu"), options.integer("seeds", 2 if quick else 3)
    settings: dict[str, Value] = {**{key: str(value) for key, value in asdict(scale).items()}, "device": device}
    settings |= profile_digests([device])
    kinds = options.names("kinds", KINDS)
    for kind in kinds:
        if kind not in KINDS:
            raise UnknownName("kind of job", kind, KINDS)
    jobs = [job for job in jobs_of(scale, seeds) if job.kind in kinds]
    return Work(settings, jobs, Worker(scale, options.text("data", "../shared/datasets"), device))


def main(arguments: Sequence[str]) -> int:
    """Do the jobs that are left, or show the results; the exit status: 0 done, 2 a user's error, 130 stopped."""
    return run_jobs("ground_truth", OPTIONS, prepare, render, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
