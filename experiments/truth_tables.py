"""The tables of `experiments.ground_truth`, drawn from its results file alone. Not for the figures in them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from experiments.free import free_scores
from experiments.results import NOT_MEASURED, Results, Row, earlier_profiles, markdown, number, shown
from experiments.truth import Accuracies, Supernet, SupernetKey, Truth, equal_draws, kendall, supernets_of
from nas.run.settings import SearchSettings

RERANKED = SearchSettings().rerank  # networks that a gradient search compares at its end
RANDOM, CPU_TIME, ANY = "random", "random in the gradient search's CPU time", "a random feasible network"
MARK, SHARE_OF_RANDOM = 0.5, 0.5  # points of mean regret; of random search's at equal cost


@dataclass(frozen=True)
class Line:
    """A method's regret in points by budget, None where nothing was measured.

    role: 'strategy', 'random' (search to be better than), 'free' (at no cost) or 'reference'; share_weights: None
    where no supernet is asked; evaluations: of networks with inherited weights, None where gradients guide the search.
    """

    role: str
    method: str
    regrets: Sequence[float | None]
    share_weights: bool | None = None
    evaluations: int | None = None

    @property
    def mean(self) -> float | None:
        """Over the budgets, in points; None where one of them was not measured."""
        return _mean(self.regrets)

    def __str__(self) -> str:
        evaluated = "" if self.evaluations is None else f", {self.evaluations} evaluated"
        weights = "" if self.share_weights is None else f", {_named(self.share_weights)} weights"
        return f"{self.method}{evaluated}{weights}"


def render(results: Results) -> str:
    """All tables from the file's rows alone."""
    truth, supernets = Truth.of(results.rows), supernets_of(results.rows)
    searches = [row for row in results.rows if row["kind"] == "search"]
    parts = [_truth_lines(truth)]
    free = free_scores(results.rows)
    if truth.trained and supernets:
        parts.append(_rank_table(truth, supernets, free))
    if truth.complete:
        parts.append(_regret_table(truth, supernets, searches, free))
    cpu_s = sum({str(row["job"]): number(row, "cpu_s") for row in results.rows}.values())
    settings = ", ".join(f"{name} {value}" for name, value in results.settings.items())
    commits = sorted({str(row["commit"])[:7] for row in results.rows})
    earlier = earlier_profiles(results.settings)
    parts += [
        f"{cpu_s / 60:.0f} CPU-minutes so far; commits {', '.join(commits)}; {settings}.{earlier and f' {earlier}'}\n"
        f"{results.provenance}"
    ]
    return "\n\n".join(parts)


def _truth_lines(truth: Truth) -> str:
    networks = len(truth.latency_ms)
    trained = {seed: len(found) for seed, found in truth.by_seed.items()}
    progress = ", ".join(f"seed {seed}: {count} of {networks}" for seed, count in trained.items()) or NOT_MEASURED
    lines = [f"Networks trained on their own: {progress}."]
    if not truth.complete:
        return " ".join([*lines, "No seed is complete, so there is no regret yet."])
    best = max(truth.accuracy, key=lambda name: truth.accuracy[name])
    low, high = min(truth.accuracy.values()), truth.accuracy[best]
    lines.append(
        f"True accuracy, the mean test accuracy over {len(truth.complete)} seeds: {low:.1%} to {high:.1%} ({best}), "
        f"standard deviation between networks {truth.network_deviation:.2f} points."
    )
    if len(truth.complete) > 1:
        taus = ", ".join(f"{tau:.2f}" for tau in truth.half_taus)
        lines.append(
            f"Between seeds of one network {truth.seed_deviation:.2f} points; Kendall's tau of one seed with the mean "
            f"of the others {taus}."
        )
    return " ".join(lines)


def _rank_table(truth: Truth, supernets: Mapping[SupernetKey, Supernet], free: Mapping[str, Accuracies]) -> str:
    by_kind: dict[tuple[bool, int], list[Supernet]] = defaultdict(list)
    for key, net in supernets.items():
        by_kind[key.share_weights, key.epochs].append(net)
    lines = []
    for (shared, epochs), found in by_kind.items():
        taus = [kendall(net.inherited, truth.trained) for net in found]
        lines.append(
            (
                _named(shared),
                str(epochs),
                ", ".join(f"{tau:.2f}" for tau in taus),
                f"{fmean(taus):.2f}",
                f"{fmean(fmean(net.inherited.values()) for net in found):.1%}",
                f"{fmean(net.training_cpu_s for net in found):.0f}",
            )
        )
    for name, scores in free.items():
        if len(scores) == len(truth.latency_ms):
            lines.append((name, "-", "-", f"{kendall(scores, truth.trained):.2f}", "-", "0"))
    header = ("candidates' weights", "epochs", "tau by seed", "mean tau", "mean inherited accuracy", "training, CPU s")
    return (
        f"Kendall's tau of inherited validation accuracy with true accuracy over the {len(truth.trained)} networks "
        f"trained so far, supernets trained on uniform paths, and of what costs nothing:\n\n{markdown(header, lines)}"
    )


def _named(share_weights: bool) -> str:
    return "shared" if share_weights else "separate"


def regret_lines(
    truth: Truth,
    supernets: Mapping[SupernetKey, Supernet],
    searches: Sequence[Row],
    free: Mapping[str, Accuracies],
) -> list[Line]:
    """Means over seeds: the strategies, then what they are compared with, by supernets trained as long as theirs."""
    epochs = max((key.epochs for key in supernets), default=0)
    budgets = sorted({number(row, "budget_ms") for row in searches})
    found: dict[tuple[bool, str, int | None], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in searches:
        budget_ms = number(row, "budget_ms")
        regret = truth.regret(str(row["network"]), budget_ms)
        found[bool(row["share_weights"]), str(row["strategy"]), _evaluations(row)][budget_ms].append(regret)
    lines = []
    for shared in (True, False):
        counts = {evaluations for _, _, evaluations in found if evaluations is not None}
        for (share_weights, strategy, evaluations), by_budget in found.items():
            if share_weights == shared:
                regrets = [_mean(by_budget[budget]) for budget in budgets]
                lines.append(Line("strategy", strategy, regrets, shared, evaluations))
        of_epochs: dict[int, list[Supernet]] = defaultdict(list)
        for key, net in supernets.items():
            if key.share_weights == shared:
                of_epochs[key.epochs].append(net)
        nets = of_epochs.pop(epochs, [])
        drawn = [("random", RANDOM, count, nets) for count in sorted(counts | {RERANKED})]
        drawn.append(("reference", "all", len(truth.latency_ms), nets))
        if equal := equal_draws(nets, [row for row in searches if row["share_weights"] == shared]):
            drawn.append(("random", CPU_TIME, equal, nets))
        for shorter, few in of_epochs.items():
            drawn.append(("reference", f"all, supernets of {shorter} epochs", len(truth.latency_ms), few))
        for role, method, count, asked in drawn:
            regrets = [_mean([truth.random_regret(net.inherited, b, count) for net in asked]) for b in budgets]
            lines.append(Line(role, method, regrets, shared, count))
    alone = [
        [truth.regret(max(truth.feasible(b), key=lambda name: trained[name]), b) for b in budgets]
        for trained in truth.complete.values()
    ]
    costless = [Line("free", name, [taken(truth, scores, b) for b in budgets]) for name, scores in free.items()]
    any_of = [truth.random_regret(truth.accuracy, b, 1) for b in budgets]
    return [
        *lines,
        *costless,
        Line("random", ANY, any_of),
        Line("reference", "best by one own training", [fmean(column) for column in zip(*alone, strict=True)]),
    ]


def taken(truth: Truth, scores: Accuracies, budget_ms: float) -> float | None:
    """Regret in points of the network of the largest score within a budget; None where none of them keeps it."""
    within = [name for name in truth.feasible(budget_ms) if name in scores]
    return truth.regret(max(within, key=lambda name: scores[name]), budget_ms) if within else None


def _evaluations(row: Row) -> int | None:
    return int(number(row, "evaluations")) if row.get("evaluations") is not None else None


def _regret_table(
    truth: Truth,
    supernets: Mapping[SupernetKey, Supernet],
    searches: Sequence[Row],
    free: Mapping[str, Accuracies],
) -> str:
    budgets = sorted({number(row, "budget_ms") for row in searches})
    if not budgets:
        return f"Regret: {NOT_MEASURED}."
    lines = regret_lines(truth, supernets, searches, free)
    header = ("regret, points", *(f"{budget:.2f} ms" for budget in budgets), "mean")
    body = [(str(line), *(shown(value, 2) for value in [*line.regrets, line.mean])) for line in lines]
    feasible = ", ".join(str(len(truth.feasible(budget))) for budget in budgets)
    return (
        f"Regret against the truly best network under the budget ({feasible} networks keep the budgets), mean over "
        f"seeds; random's is the exact expectation:\n\n{markdown(header, body)}\n\n{_marks(lines)}"
    )


def _marks(lines: Sequence[Line]) -> str:
    """Every strategy against the mark, with each meaning of random search at equal cost."""
    random = {(line.method, line.share_weights, line.evaluations): line.mean for line in lines}
    equal = {line.share_weights: line.mean for line in lines if line.method == CPU_TIME}
    costless = [line for line in lines if line.role == "free" and line.mean is not None]
    free = min(costless, key=lambda line: line.mean or 0.0, default=None)
    body, behind = [], 0
    for line in lines:
        if line.role == "strategy" and line.mean is not None:
            ahead = free is None or free.mean is None or line.mean < free.mean
            behind += not ahead
            others = {
                "evaluations": random[RANDOM, line.share_weights, line.evaluations or RERANKED],
                "CPU time": equal.get(line.share_weights) if line.evaluations is None else None,
                "feasible": random[ANY, None, None],
            }
            kept = [name for name, other in others.items() if other is not None and keeps_mark(line.mean, other)]
            cells = ["-" if other is None else f"{other:.2f}" for other in others.values()]
            body.append((str(line), f"{line.mean:.2f}", *cells, ", ".join(kept) or "none", "yes" if ahead else "no"))
    header = (
        "strategy",
        "mean regret",
        "random: as many evaluations",
        "in its CPU time",
        "any feasible",
        "mark kept by",
        "better than what costs nothing",
    )
    note = ""
    if free is not None:
        note = (
            f"\n\nThe best choice that costs nothing: {free}, {free.mean:.2f} points. {behind} of the {len(body)} "
            "strategies are not better."
        )
    return (
        f"Mark: at most {MARK} points, and less than {SHARE_OF_RANDOM:.0%} of random search's at equal cost (the same "
        f"supernet's training and as many networks evaluated; a gradient search evaluates {RERANKED} at its end):\n\n"
        f"{markdown(header, body)}{note}"
    )


def keeps_mark(regret: float, random: float) -> bool:
    """Whether a strategy's mean regret is low enough, both absolutely and beside random search's at equal cost.

    Both in points of accuracy: at most `MARK`, and less than `SHARE_OF_RANDOM` of random search's.
    """
    return regret <= MARK and regret < SHARE_OF_RANDOM * random


def _mean(values: Sequence[float | None]) -> float | None:
    """None unless all are there."""
    present = [value for value in values if value is not None]
    return fmean(present) if present and len(present) == len(values) else None
