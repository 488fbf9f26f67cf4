"""How well a device is known by a few whole networks, when its time is taken for a mix of other devices.

Question   What rank correlation and error do 3, 5, 10, 20 and 50 timed networks give on a device that nothing is
           known of, with `latency_models.fit.whole_networks.mix`, with the best single known device scaled, and with
           an additive ridge on those few networks alone?
Data       NAS-Bench-201 on 28 devices (HELP, MIT), 15,284 cells that join input and output. Devices whose times
           are sums (an additive model errs by less than 0.1 % on cells it did not see) are left out: they were not
           measured. Every other device is the new one in turn; the others are known by additive models of 900
           networks, those of its own family (NVIDIA, Intel, Arm) or only of its own chip left out.
Command    python -m experiments.few_shot source=../shared/tabular
           python -m experiments.few_shot show
Cost       Two minutes on one core; 1 GiB of memory.
Expected   Knowing other families alone, the mix ranks at 0.92 from 5 networks and 0.93 from 10 on, ahead of both
           alternatives up to 10. From 20 networks on the ridge alone is better (0.95, then 0.97): who can time so
           many needs no other device. HELP publishes 0.93 with 20 measurements (0.91 in the FBNet space), on its
           own devices, relatives of which were known.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.command import run_experiment
from experiments.results import Results, Row, Value, markdown, take_provenance
from latency_models.fit.whole_networks import HOLD, mix
from latency_models.options import Options
from search_space.errors import BadFile

Array = NDArray[np.float64]
Cells = NDArray[np.int64]

COUNTS = (3, 5, 10, 20, 50)
DRAWS = 30
SEED = 0
KNOWN_SAMPLES = 900
SUMMED = 0.1  # percent; an additive model that errs less was fitted to sums
OPTIONS = {
    "source": "folder of nasbench201.npz (default: ../shared/tabular)",
    "draws": f"random choices of networks (default: {DRAWS})",
}
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # in the order of the file
MIX, SINGLE, RIDGE = "mix of known devices", "best known device, scaled", "ridge on the few alone"
PUBLISHED = (
    ("HELP, NAS-Bench-201 (its README)", 20, 0.932),
    ("HELP, FBNet space (its README)", 20, 0.910),
)
"""Rank correlations as published: 10 reference networks and 10 samples of the new device make 20 measurements."""


def _several(name: str, chip: str) -> dict[str, tuple[str, str]]:
    return {f"{name}_{batch}": (chip, "NVIDIA") for batch in (1, 32, 256)}


RELATIVES: Mapping[str, tuple[str, str]] = {
    **_several("1080ti", "GTX 1080 Ti"),
    **_several("2080ti", "RTX 2080 Ti"),
    **_several("titan_rtx", "Titan RTX"),
    **_several("titanx", "Titan X"),
    **_several("titanxp", "Titan Xp"),
    "gold_6226": ("Xeon Gold 6226", "Intel"),
    "gold_6240": ("Xeon Gold 6240", "Intel"),
    "silver_4114": ("Xeon Silver 4114", "Intel"),
    "silver_4210r": ("Xeon Silver 4210R", "Intel"),
    "desktop_i7_7820x_fp32": ("Core i7-7820X", "Intel"),
    "essential_ph_1": ("Snapdragon 835", "Arm"),
    "pixel2": ("Snapdragon 835", "Arm"),
    "pixel3": ("Snapdragon 845", "Arm"),
    "samsung_a50": ("Exynos 9610", "Arm"),
    "samsung_s7": ("Galaxy S7", "Arm"),
    "raspi4": ("Cortex-A72", "Arm"),
    "eyeriss": ("Eyeriss", "accelerator"),
    "fpga": ("FPGA", "accelerator"),
}
"""Device -> chip and family."""


@dataclass(frozen=True, eq=False)
class Times:
    """cells: (N, 6) operation on every edge, `names` their names; latency_ms: (D, N) of the named devices."""

    cells: Cells
    names: tuple[str, ...]
    devices: tuple[str, ...]
    latency_ms: Array


def load_times(folder: Path) -> Times:
    """The cells that join input and output. Raises `BadFile`."""
    path = folder / "nasbench201.npz"
    try:
        with np.load(path, allow_pickle=False) as data:
            cells = data["ops"].astype(np.int64)
            names, devices = tuple(map(str, data["op_names"])), tuple(map(str, data["devices"]))
            latency_ms = data["latency_ms"].astype(np.float64).T
    except FileNotFoundError as error:
        raise BadFile(f"no file '{path}'; source= names its folder") from error
    except (OSError, ValueError, KeyError) as error:
        raise BadFile(f"'{path}' does not hold the table of NAS-Bench-201: {error}") from error
    joined = on_a_path(cells, names.index("none")).any(1)
    return Times(cells[joined], names, devices, latency_ms[:, joined])


def on_a_path(cells: Cells, none: int) -> NDArray[np.bool_]:
    """(N, 6): whether an edge lies on a path from input to output; some runtimes leave out the others."""
    e01, e02, e12, e03, e13, e23 = (cells != none).T
    to_2, from_1 = e02 | (e01 & e12), e13 | (e12 & e23)
    return np.stack([e01 & from_1, e02 & e23, e01 & e12 & e23, e03, e01 & e13, to_2 & e23], axis=1)


def counts(times: Times) -> Array:
    """(N, F) features of an additive model.

    How often each operation stands on any edge and on one of a path, additions of the same two kinds, and 1.
    """
    none = times.names.index("none")
    used = on_a_path(times.cells, none)
    columns = [np.ones(len(times.cells))]
    for operation in (i for i in range(len(times.names)) if i != none):
        columns += [(times.cells == operation).sum(1), ((times.cells == operation) & used).sum(1)]
    for alive in (times.cells != none, used):
        ends = [[i for i, (_, end) in enumerate(EDGES) if end == node] for node in (2, 3)]
        columns.append(sum(np.maximum(alive[:, at].sum(1) - 1, 0) for at in ends))
    return np.stack(columns, axis=1).astype(np.float64)


def additive_error(times: Times, latency_ms: Array) -> float:
    """Mean error in percent on unseen cells of one time per edge and operation, on paths and off them."""
    none = times.names.index("none")
    used = on_a_path(times.cells, none)
    kinds = [times.cells == i for i in range(len(times.names)) if i != none]
    x = np.hstack([counts(times), *kinds, *(kind & used for kind in kinds)]).astype(np.float64)
    order = np.random.default_rng(SEED).permutation(len(x))
    seen, unseen = order[:KNOWN_SAMPLES], order[KNOWN_SAMPLES:]
    y = latency_ms
    coefficients = np.linalg.lstsq(x[seen] / y[seen, None], np.ones(len(seen)), rcond=None)[0]
    return float(100 * np.abs(x[unseen] @ coefficients / y[unseen] - 1).mean())


def known_model(features: Array, latency_ms: Array) -> Array:
    """(N,) ms that an additive model of a known device predicts, from 900 of its networks."""
    from scipy.optimize import nnls

    seen = np.random.default_rng(SEED).permutation(len(features))[:KNOWN_SAMPLES]
    coefficients, _ = nnls(features[seen] / latency_ms[seen, None], np.ones(len(seen)))
    predicted: Array = features @ coefficients
    return predicted


def ridge(features: Array, sample: NDArray[np.intp], latency_ms: Array) -> Array:
    """(N,) ms by an additive ridge on relative errors; its strength leaves out one network at a time."""
    x = features[:, 1:]
    x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-9)  # over the whole space: sizes are known without timing
    x = np.hstack([np.ones((len(x), 1)), x])
    a, ones = x[sample] / latency_ms[sample, None], np.ones(len(sample))
    scale = float((a[:, 0] ** 2).mean())
    best = (np.inf, np.zeros(x.shape[1]))
    for strength in (1e-3, 1e-2, 1e-1, 1.0, 10.0):
        held = np.diag([1e-9, *[strength] * (x.shape[1] - 1)]) * scale
        inverse = np.linalg.inv(a.T @ a + held)
        coefficients = inverse @ a.T @ ones
        left_out = (a @ coefficients - 1) / np.maximum(1 - np.einsum("ij,jk,ik->i", a, inverse, a), 1e-9)
        best = min(best, (float((left_out**2).sum()), coefficients), key=lambda found: found[0])
    predicted: Array = x @ best[1]
    return predicted


def single(known_ms: Array, sample: NDArray[np.intp], latency_ms: Array) -> Array:
    """(N,) ms by the known device that fits the sample best once scaled. known_ms: (D, N)."""
    x = known_ms[:, sample] / latency_ms[sample]
    scales = x.sum(1) / (x**2).sum(1)
    best = int(((x * scales[:, None] - 1) ** 2).sum(1).argmin())
    predicted: Array = scales[best] * known_ms[best]
    return predicted


def related(device: str, other: str, level: str) -> bool:
    """Whether `other` may not be known when `device` is new. level: 'chip' or 'family'."""
    place = ("chip", "family").index(level)
    return RELATIVES[device][place] == RELATIVES[other][place]


def predictions(
    features: Array, known: Mapping[str, Array], sample: NDArray[np.intp], latency_ms: Array
) -> Iterator[tuple[str, str, Array]]:
    """Every method's name, what it left out of the known devices, and its (N,) ms. known: level -> (D, N)."""
    for level, known_ms in known.items():
        weights, constant = mix(known_ms[:, sample], latency_ms[sample])
        yield MIX, level, weights @ known_ms + constant
        yield SINGLE, level, single(known_ms, sample, latency_ms)
    yield RIDGE, "", ridge(features, sample, latency_ms)


def score(predicted_ms: Array, measured_ms: Array) -> tuple[float, float]:
    """Rank correlation, 0 where all predictions are equal, and mean absolute error in percent."""
    from scipy.stats import rankdata

    error = float(100 * np.abs(predicted_ms / measured_ms - 1).mean())
    if np.ptp(predicted_ms) == 0:
        return 0.0, error
    return float(np.corrcoef(rankdata(predicted_ms), rankdata(measured_ms))[0, 1]), error


def compare(times: Times, draws: int, measurements: Sequence[int]) -> list[Row]:
    """Rows of kind 'device' (which were used), 'device score' and 'score' (mean over the devices)."""
    errors = {d: additive_error(times, ms) for d, ms in zip(times.devices, times.latency_ms, strict=True)}
    rows: list[Row] = [
        {"row": "device", "device": device, "chip": RELATIVES[device][0], "family": RELATIVES[device][1],
         "additive_error": round(error, 4), "used": error >= SUMMED}
        for device, error in errors.items()
    ]  # fmt: skip
    used = [i for i, device in enumerate(times.devices) if errors[device] >= SUMMED]
    features = counts(times)
    models = {i: known_model(features, times.latency_ms[i]) for i in used}
    found: dict[tuple[str, str, int], list[Array]] = {}  # method, level, measurements -> (draws, 2) a device
    for i in used:
        name, ms = times.devices[i], times.latency_ms[i]
        known = {
            level: np.array([models[j] for j in used if not related(name, times.devices[j], level)])
            for level in ("family", "chip")
        }
        for n in measurements:
            scores: dict[tuple[str, str, int], list[tuple[float, float]]] = {}
            for draw in range(draws):
                sample = np.random.default_rng([SEED, i, n, draw]).choice(len(ms), n, replace=False)
                rest = np.delete(np.arange(len(ms)), sample)
                for method, level, predicted in predictions(features, known, sample, ms):
                    scores.setdefault((method, level, n), []).append(score(predicted[rest], ms[rest]))
            for key, values in scores.items():
                found.setdefault(key, []).append(np.array(values))
                if key[:2] == (MIX, "family"):
                    rows.append({"row": "device score", "device": name, **_figures(*key, np.array(values))})
    for key, arrays in sorted(found.items()):
        worst = times.devices[used[int(np.argmin([a[:, 0].mean() for a in arrays]))]]
        rows.append({"row": "score", **_figures(*key, np.mean(arrays, axis=0)), "worst": worst})
    return rows


def _figures(method: str, level: str, n: int, values: Array) -> dict[str, Value]:
    """Mean and standard deviation over draws. values: (draws, 2)."""
    mean, deviation = values.mean(0), values.std(0)
    return {
        "method": method,
        "left_out": level,
        "measurements": n,
        "spearman": round(float(mean[0]), 4),
        "spearman_deviation": round(float(deviation[0]), 4),
        "mape": round(float(mean[1]), 3),
        "mape_deviation": round(float(deviation[1]), 3),
    }


def measure(options: Options, quick: bool, command: str) -> Results:
    """`quick`: two draws of 5 and 20 networks."""
    import scipy

    times = load_times(Path(options.text("source", "../shared/tabular")))
    draws = options.integer("draws", 2 if quick else DRAWS)
    rows = compare(times, draws, (5, 20) if quick else COUNTS)
    rows += [{"row": "published", "method": name, "measurements": n, "spearman": value} for name, n, value in PUBLISHED]
    provenance = take_provenance(command, "cpu")
    versions = {**provenance.versions, "numpy": np.__version__, "scipy": scipy.__version__}
    settings = {
        "seed": SEED,
        "draws": draws,
        "networks": len(times.cells),
        "known_samples": KNOWN_SAMPLES,
        "hold": HOLD,
    }
    return Results("few_shot", replace(provenance, versions=versions), settings, tuple(rows))


def render(results: Results) -> str:
    """Both tables, what was left out, and the published figures, from the results alone."""
    scores = [row for row in results.rows if row["row"] == "score"]
    numbers = sorted({int(str(row["measurements"])) for row in scores})
    methods = sorted({(str(row["method"]), str(row["left_out"])) for row in scores}, key=_order)
    header = ("method", "known devices", *(f"{n} networks" for n in numbers))
    known = {"family": "other families", "chip": "other chips", "": "none"}
    parts = []
    for figure, title, digits in (("spearman", "Rank correlation", 3), ("mape", "Mean error, %", 1)):
        lines = []
        for method, level in methods:
            cells = [
                f"{row[figure]:.{digits}f} ± {row[f'{figure}_deviation']:.{digits}f}"
                for n in numbers
                for row in scores
                if (row["method"], row["left_out"], row["measurements"]) == (method, level, n)
            ]
            lines.append((method, known[level], *cells))
        parts += [f"{title} (mean over devices; ± standard deviation over {results.settings['draws']} draws)", ""]
        parts += [markdown(header, lines), ""]
    devices = [row for row in results.rows if row["row"] == "device"]
    families: dict[str, list[str]] = {}
    for row in devices:
        if row["used"]:
            families.setdefault(str(row["family"]), []).append(str(row["device"]))
    summed = [f"{row['device']} ({row['additive_error']:.2f} %)" for row in devices if not row["used"]]
    parts += [f"- {family}: {', '.join(names)}" for family, names in families.items()]
    parts.append(f"- left out, sums and no measurements (an additive model's error): {', '.join(summed) or 'none'}")
    for row in results.rows:
        if row["row"] == "published":
            parts.append(
                f"- published: {row['method']}, {row['measurements']} measurements: {row['spearman']:.3f}, "
                "on its own devices and cells"
            )
    return "\n".join([*parts, "", str(results.provenance)])


def _order(method: tuple[str, str]) -> tuple[int, bool]:
    return (MIX, SINGLE, RIDGE).index(method[0]), method[1] == "chip"


def main(arguments: Sequence[str]) -> int:
    """Measure, or show what was measured; the exit status: 0 done, 2 a user's error, 130 stopped."""
    return run_experiment("few_shot", OPTIONS, measure, render, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
