from __future__ import annotations

import sys
from experiments.jobs import Work, run_jobs
from experiments.ranking_work import Job, Ranker
from experiments.truth_work import Scale

SPACES = ("ground_truth", "deeper")
OPTIONS = {"data": "x", "seeds": "x"}


def jobs_of(seeds):
    jobs = []
    for space in SPACES:
        jobs += [Job("zero cost", space, seed) for seed in range(seeds)]
        for seed in range(seeds):
            for short in (False, True):
                jobs += [Job("supernet", space, seed, w, short) for w in ("separate", "shared")]
    return jobs


def prepare(options, quick):
    scale = Scale(choosing=5_000)
    settings = {
        "data": scale.data,
        "limit": scale.limit,
        "choosing": scale.choosing,
        "resolution": scale.resolution,
        "warmup": scale.warmup,
        "search": scale.search,
        "short": scale.short,
        "batch_size": scale.batch_size,
        "lr": scale.lr,
    }
    return Work(
        settings, jobs_of(options.integer("seeds", 3)), Ranker(scale, options.text("data", "../shared/datasets"))
    )


if __name__ == "__main__":
    sys.exit(run_jobs("ranking", OPTIONS, prepare, lambda r: "", sys.argv[1:]))
