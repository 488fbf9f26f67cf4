"""Where trained weights come from: a package of the index, a file, or timm. Not for what they are made into."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from nas.pretrained.networks import INSTALL, TIMM, package_of, packaged, published
from nas.pretrained.trained import Trained, trained_from
from search_space.errors import BadFile, UnknownName, UserError, one_line
from search_space.weight_files import read_state_dict

INSTALL_TIMM = "pip install -c constraints.txt -e '.[baselines]'"


def load_trained(name: str) -> Trained:
    """Weights by name (`packaged`), by `timm:NAME`, or from the file at a path.

    Raises `UserError`, `UnknownName` or `BadFile`, each one line, where the package, timm or a network is missing, and
    for a file that holds no known network.
    """
    if name in packaged():
        return _from_package(name)
    if name.startswith(TIMM):
        return _from_timm(name)
    path = Path(name).expanduser()
    if not path.suffix and not path.exists():
        raise UnknownName("trained network", name, packaged(), f"Or {TIMM}NAME, or a file: .pth, .pt or .safetensors")
    stamp = (path.stat().st_mtime_ns, path.stat().st_size) if path.is_file() else None
    return _from_file(path, stamp)


@lru_cache(maxsize=1)
def _from_file(path: Path, stamp: tuple[int, int] | None) -> Trained:
    """Read once for the plan and the start of a search; stamp: of the file, so that another one is read."""
    trained = trained_from(read_state_dict(path), f"'{path}'")
    return replace(trained, licence=f"not stated in the file; the published {trained.name} is {trained.licence}")


def _from_package(name: str) -> Trained:
    package = package_of(name)
    files = [file for file in package.files or () if file.suffix == ".pth"]
    if len(files) != 1:
        raise BadFile(
            f"the package {package.name} holds {len(files)} files .pth instead of one; install it anew: {INSTALL}"
        )
    state = read_state_dict(Path(str(files[0].locate())))
    return trained_from(state, f"{package.name} {package.version}", [name])


def _from_timm(name: str) -> Trained:
    """Through timm, which takes its files from its cache or over the network."""
    known = [other for other in published() if other.startswith(TIMM)]
    wanted = name.removeprefix(TIMM)
    model = wanted.partition(".")[0]  # the rest is timm's tag of a training
    if TIMM + model not in known:
        raise UnknownName("trained network", name, known)
    try:
        import timm
    except ImportError as error:
        raise UserError(f"{name} needs timm; install it: {INSTALL_TIMM}") from error
    try:
        made: Any = timm.create_model(wanted, pretrained=True)
    except Exception as error:  # of timm, of its hub's client, and of the network
        raise UserError(
            f"timm has not got the weights of {name} ({one_line(error)[:100]}); where there is a network, write the "
            f"state_dict() of timm.create_model('{wanted}', pretrained=True) with torch.save, and name that file"
        ) from error
    facts = made.pretrained_cfg
    trained = trained_from(made.state_dict(), f"timm {timm.__version__}, {wanted}", [TIMM + model])
    return replace(
        trained,
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
        licence=facts.get("license") or trained.licence,
    )
