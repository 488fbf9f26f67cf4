"""The card of the supernet that ships, drawn from the results of `experiments.pretrain` alone."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import fmean

from experiments.results import Results, Row, earlier_profiles, markdown, number


def render(results: Results) -> str:
    """As Markdown."""
    s = results.settings
    (supernet,) = (row for row in results.rows if row["kind"] == "supernet")
    found = [row for row in results.rows if row["kind"] == "found"]

    def per_cent(name: str) -> str:
        return f"{100 * number(supernet, name):.1f} %"

    facts = [
        f"What: the supernet of space `{s['space']}`, shared weights, {number(supernet, 'params') / 1e6:.2f}M "
        f"parameters as {s['stored']} ({number(supernet, 'bytes') / 1e6:.1f} MB), and gates.",
        "For: `python -m nas.search init=pretrained device=NAME budget_ms=NUMBER data=cifar10 data.root=FOLDER`.",
        f"Images: {s['data']} at {s['resolution']} pixels, mirrored and shifted: {s['train_images']} of the train "
        f"images for the weights, the other {s['validation_images']} to choose by (data.validation_share="
        f"{s['validation_share']}), the {s['test_images']} test images for what is reported.",
        "Licence of the images: CIFAR-10 (A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009) "
        "states none; none of its images is here. The weights are under this project's licence.",
        f"Weights: {s['epochs']} epochs, a network a step, drawn so that every sixteenth of the range of latency on "
        f"vpu is as frequent; AdamW, batches of {s['batch_size']}, learning rate {s['lr']} with a cosine schedule, "
        f"decay {s['weight_decay']}, label smoothing {s['label_smoothing']}, seed {s['seed']}; one thread, "
        f"{number(supernet, 'training_wall_s') / 60:.0f} minutes on a machine busy with other work"
        f"{f'; {changed}' if (changed := s.get('schedule_changed')) else ''}.",
        f"Gates: points of accuracy that each candidate adds, fitted to {supernet['networks']} networks, drawn so "
        f"too, on {s['images_for_gates']} validation images: {per_cent('worst')} the worst, {per_cent('mean')} the "
        f"mean, {per_cent('best')} the best. Rank correlation with networks that the fit did not see: "
        f"{number(supernet, 'rank_correlation'):.2f}, at equal latency "
        f"{number(supernet, 'rank_correlation_at_equal_latency'):.2f}.",
        f"Storing as {s['stored']} changes the accuracy of 16 networks by "
        f"{100 * number(supernet, 'stored_gain'):+.2f} points on average.",
        "Not for: use as a classifier as it is. It was trained for minutes; `finetune.epochs=N`, or `nas.train` on the "
        "network found, starts from there.",
    ]
    share = fmean(number(row, "test") for row in found)
    error = sqrt(share * (1 - share) / int(str(s["test_images"])))
    table = markdown(
        ["budget", "way", "of its budget", "validation %", "test %", "CPU seconds"], [_line(r) for r in found]
    )
    return "\n\n".join(
        [
            "# quadranet-cifar10.safetensors",
            "\n".join(f"- {fact}" for fact in facts),
            "## What is found with it\n\nInherited weights, nothing trained; test accuracy is that of model.onnx on "
            "all test images. Trials, and the best of several, are compared on 1,000 validation images. The measuring "
            "of the result on all images is included in the seconds, the start of Python is not. The standard error of "
            f"a test accuracy is {100 * error:.1f} points: smaller differences are chance.",
            table,
            *filter(None, [earlier_profiles(s)]),
            str(results.provenance),
        ]
    )


def _line(row: Row) -> Sequence[str]:
    return (
        f"{row['device']} {number(row, 'budget_ms'):g} ms",
        str(row["way"]),
        f"{number(row, 'used'):.3f}",
        f"{100 * number(row, 'validation'):.2f}",
        f"{100 * number(row, 'test'):.2f}",
        f"{number(row, 'cpu_s'):.0f}",
    )
