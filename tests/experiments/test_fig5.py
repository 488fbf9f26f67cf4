"""The experiment of Fig. 5: a miniature of it, resumed where a file ends, its statistics by hand, table and figure."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments import fig5
from experiments.fig5 import FORMS, Job, Point, differences, interval, jobs, linear_at, main, points, render
from experiments.results import Provenance, Results, Row, load_results
from search_space.errors import UserError
from search_space.family import family_architecture

SETTINGS = {"data": "CIFAR-10", "epochs": 3, "images": 10_000, "resolution": 32}


@pytest.fixture
def cifar10(tmp_path: Path) -> Path:
    """A folder in CIFAR-10's binary format: 250 images of noise, ten classes."""
    folder = tmp_path / "cifar10"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        labels = np.repeat(np.arange(10, dtype=np.uint8), 5)[:, None]
        np.hstack([labels, rng.integers(0, 256, (50, 3072), dtype=np.uint8)]).tofile(folder / name)
    return folder


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """The command sets torch's threads for its process, which here is not its own."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def row(size: str, form: str, seed: int, accuracy: float, params: int = 1, macs: int = 1) -> Row:
    return {"size": size, "form": form, "seed": seed, "accuracy": accuracy, "params": params, "macs": macs}


def results(*rows: Row) -> Results:
    return Results("fig5", Provenance("command", "today", None, "machine", 1, None, {}), SETTINGS, rows)


def point(form: str, params: int, macs: int, *accuracies: float) -> Point:
    return Point("12x8", form, params, macs, dict(enumerate(accuracies)))


def test_a_miniature_its_file_and_its_figure(cifar10: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, svg = tmp_path / "fig5.json", tmp_path / "fig5.svg"
    assert main(["--quick", f"data={cifar10}", "images=100", f"out={out}"]) == 0
    measured = capsys.readouterr().out
    found = load_results(out, "fig5")
    assert [(r["size"], r["form"], r["seed"]) for r in found.rows] == [("12x8", form, 0) for form in FORMS]
    assert all(0 <= float(str(r["accuracy"])) <= 1 for r in found.rows)
    assert main(["show", f"out={out}", f"figure={svg}"]) == 0
    assert measured.startswith(capsys.readouterr().out.rstrip("\n"))
    drawn = svg.read_bytes()
    assert drawn.startswith(b"<?xml") and drawn.count(b'id="axes_') == 2
    assert fig5.draw(found) == drawn, "the same bytes for the same file"


def test_it_resumes_where_the_file_ends(
    cifar10: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[Job] = []

    def train(job: Job, data: Any, epochs: int) -> Mapping[str, Any]:
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(job)
        width = job.architecture.space.stem_width
        return {**row(job.size, job.form, job.seed, 0.5, width, width), "seconds": 1.0}

    monkeypatch.setattr(fig5, "train", train)
    out = f"out={tmp_path / 'fig5.json'}"
    command = [f"data={cifar10}", "sizes=12x8,36x16,12x8", "seeds=2", "images=100", out]
    assert main(command) == 130
    assert len(load_results(tmp_path / "fig5.json", "fig5").rows) == 3, "written as soon as each was done"
    first = list(trained)
    trained.clear()
    for _ in range(3):
        main(command)
        first += trained
        trained.clear()
    assert first == list(jobs(("12x8", "36x16"), 2)), "each once, one seed after another"
    assert main([*command, "epochs=5"]) == 2
    assert "holds trainings of 3 epochs of 100 images, not 5 epochs of 100 images" in capsys.readouterr().err


def test_no_training_starts_after_the_minutes(
    cifar10: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = f"out={tmp_path / 'fig5.json'}"
    assert main([f"data={cifar10}", "images=100", "minutes=1e-9", out]) == 0
    assert "at equal depth and width: not measured" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "missing data="),
        (["data=nowhere"], "no CIFAR-10 in 'nowhere'"),
        (["data=nowhere", "sizes=13x8"], "sizes=13x8: a size is 12 or 36 blocks x a base width, as 12x16"),
        (["data=nowhere", "sizes=12"], "sizes=12: a size is"),
        (["data=nowhere", "sizes=12x08"], "sizes=12x08: a size is"),
        (["data=nowhere", "seeds=0"], "seeds=0 is not an integer >= 1"),
        (["show", "epochs=3"], "'show' measures nothing and takes no epochs="),
    ],
)
def test_refusals(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("size", ["12x16", "36x64"])
def test_its_networks_are_the_familys(size: str) -> None:
    assert Job(size, "quadratic", 0).architecture == family_architecture(f"fig5-{size}")
    assert Job(size, "linear", 0).architecture == family_architecture(f"fig5-{size}-linear")


def test_difference_over_seeds_of_both() -> None:
    """Differences 1, 2, 3: mean 2, deviation 1; t(0.975, 2) = 4.303."""
    quadratic, linear = point("quadratic", 1, 1, 51, 54, 53, 90), point("linear", 1, 1, 50, 52, 50)
    assert differences(quadratic, linear) == [1, 2, 3]
    assert interval([1, 2, 3]) == pytest.approx((2, 4.3027 / 3**0.5), abs=1e-3)
    assert interval([1]) is interval([]) is None


def test_linear_accuracy_between_two_networks() -> None:
    linear = [point("linear", 100, 10, 40, 42), point("linear", 10_000, 1000, 51), point("linear", 1000, 100, 45)]
    assert linear_at(1000, "params", linear) == pytest.approx(45)
    assert linear_at(10**2.5, "params", linear) == pytest.approx(43)
    assert linear_at(10**2.5, "macs", linear) == pytest.approx(48)
    assert linear_at(99, "params", linear) is linear_at(10_001, "params", linear) is None


def test_the_table_says_what_was_found() -> None:
    found = results(
        *(row("12x8", "quadratic", seed, 0.5 + 0.01 * seed, 1_500_000, 2_000_000) for seed in range(3)),
        *(row("12x8", "linear", seed, 0.4 + 0.01 * seed, 1_000_000, 1_000_000) for seed in range(3)),
        *(row("12x16", "quadratic", seed, (0.5, 0.6)[seed], 5_000_000, 8_000_000) for seed in range(2)),
        *(row("12x16", "linear", seed, (0.6, 0.5)[seed], 4_000_000, 4_000_000) for seed in range(2)),
        row("12x32", "quadratic", 0, 0.7, 20_000_000, 32_000_000),
    )
    text = render(found)
    assert "| 12x8 | quadratic | 1.500 | 2.00 | 51.00 ± 1.00 | 3 | +10.00 ± 0.00 |" in text
    assert "| 12x8 | linear | 1.000 | 1.00 | 41.00 ± 1.00 | 3 | - | - | - |" in text
    assert "| 12x32 | quadratic | 20.000 | 32.00 | 70.00 | 1 | not measured | - | - |" in text
    assert "at equal depth and width: 12x8 better; 12x16 undecided; 12x32 undecided." in text
    assert text.endswith("Over all 5 pairs of a size and a seed: +6.00 ± 11.11, undecided."), "10, 10, 10, -10, 10"
    assert [p.size for p in points(found)] == ["12x8", "12x8", "12x16", "12x16", "12x32"]


def test_without_matplotlib_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "experiments.curves", None)
    with pytest.raises(UserError, match=r"pip install -c constraints.txt -e '\.\[plot\]'"):
        fig5.draw(results())
