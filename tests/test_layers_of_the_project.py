"""Which folder may import which, what stays cheap to import, and what no module may do. Read from the source by ast."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT

ALLOWED = {  # folder -> the project's folders that it may import
    "search_space": {"search_space"},
    "device_profiles": {"search_space", "device_profiles"},
    "latency_models": {"search_space", "device_profiles", "latency_models"},
    "nas": {"search_space", "device_profiles", "latency_models", "nas"},
    "experiments": {"search_space", "device_profiles", "latency_models", "nas", "experiments"},
}
OWN = {*ALLOWED, "tests"}
HEAVY = {"torch", "sklearn", "pandas", "scipy", "onnx", "onnxruntime", "optuna", "PIL", "hydra"}
PICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}

SOURCES = sorted(p.relative_to(ROOT) for folder in ALLOWED for p in (ROOT / folder).rglob("*.py"))


def imported(source: str, package: str = "") -> set[str]:
    """Top-level names of all modules that a source imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(package if node.level else (node.module or "").split(".")[0])
    return names


def module_name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def imported_modules(source: str, module: str, known: set[str], functions: bool) -> set[str]:
    """Which of the known modules a module imports when it runs: not for annotations (`if TYPE_CHECKING`), and inside
    of functions only if asked for. `from package import name` is an import of package.name where that is a module."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                waiting += node.orelse
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda() if not functions:
                pass
            case ast.Import():
                found |= {alias.name for alias in node.names}
            case ast.ImportFrom():
                whole = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
                found |= {name if name in known else node.module or "" for name in whole.values()}
            case _:
                waiting += ast.iter_child_nodes(node)
    return found & known - {module}


def circles(sources: dict[str, str], functions: bool) -> set[frozenset[str]]:
    """Sets of modules of which each imports, over others, every other."""
    graph = {name: imported_modules(source, name, set(sources), functions) for name, source in sources.items()}

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            new = graph[waiting.pop()] - seen
            seen |= new
            waiting += new
        return seen

    behind = {name: reached(name) for name in graph}
    return {frozenset(n for n in behind[name] if name in behind[n]) for name in graph if name in behind[name]}


def faults(source: str) -> Iterator[str]:
    """What no module of the project may do, each with its line."""
    for node in ast.walk(ast.parse(source)):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"{line}: bare except"
        if not isinstance(node, ast.Call):
            continue
        named = {k.arg for k in node.keywords}
        given = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
        match node.func:
            case ast.Name(id="eval" | "exec" | "input" as name):
                yield f"{line}: {name}()"
            case ast.Attribute(value=ast.Name(id="torch"), attr="load") if given.get("weights_only") is not True:
                yield f"{line}: torch.load without weights_only=True"
            case ast.Attribute(value=ast.Name(id="np"), attr="load") if given.get("allow_pickle") is not False:
                yield f"{line}: np.load without allow_pickle=False"
            case ast.Attribute(value=ast.Name(id="yaml"), attr="unsafe_load" | "full_load"):
                yield f"{line}: yaml without safe_load"
            case ast.Attribute(value=ast.Name(id="yaml"), attr="load") if "Loader" not in named:
                yield f"{line}: yaml without safe_load"


def test_the_source_is_found() -> None:
    assert {p.parts[0] for p in SOURCES} == set(ALLOWED)
    assert len(SOURCES) > 30


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_later_imports_earlier_and_never_back(path: Path) -> None:
    folder = path.parts[0]
    used = imported((ROOT / path).read_text(encoding="utf-8"), folder) & OWN
    assert used <= ALLOWED[folder], f"{path} imports {used - ALLOWED[folder]}"


def test_no_module_imports_relatively() -> None:
    """So that every import names its module, for the tests here as for readers."""
    for path in SOURCES:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level], path


@pytest.mark.parametrize("functions", [False, True], ids=["modules", "functions"])
def test_imports_make_no_circle(functions: bool) -> None:
    """Where modules need each other, what both need belongs in a third, or they are one module."""
    sources = {module_name(path): (ROOT / path).read_text(encoding="utf-8") for path in SOURCES}
    assert [sorted(circle) for circle in circles(sources, functions)] == []


def test_spaces_are_values_that_know_no_block_family() -> None:
    """So that a family, of this project or of another, can import what it is a family of."""
    source = (ROOT / "search_space" / "space.py").read_text(encoding="utf-8")
    known = {module_name(path) for path in SOURCES}
    assert imported_modules(source, "search_space.space", known, functions=True) == {
        "search_space.bounds",
        "search_space.errors",
        "search_space.reading",
    }


def test_planted_circles_are_found() -> None:
    sources = {
        "p": "from p import a",
        "p.a": "from p.b import x\nif TYPE_CHECKING:\n    import p\nelse:\n    import p.d",
        "p.b": "def f():\n    import p.c",
        "p.c": "from p import a",
        "p.d": "from p.a import y",
    }
    assert circles(sources, functions=False) == {frozenset({"p.a", "p.d"})}
    assert circles(sources, functions=True) == {frozenset({"p.a", "p.b", "p.c", "p.d"})}


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_nothing_forbidden(path: Path) -> None:
    source = (ROOT / path).read_text(encoding="utf-8")
    assert list(faults(source)) == []
    assert not imported(source) & PICKLERS


@pytest.mark.parametrize(
    "planted",
    [
        "try:\n    x = 1\nexcept:\n    pass",
        "eval('1')",
        "def f():\n    return input()",
        "torch.load('x')",
        "torch.load('x', weights_only=False)",
        "np.load('x')",
        "np.load('x', allow_pickle=True)",
        "yaml.load(text)",
    ],
)
def test_a_planted_fault_is_found(planted: str) -> None:
    assert len(list(faults(planted))) == 1


def test_what_looks_like_a_fault_and_is_none() -> None:
    assert not list(
        faults("network.eval()\ntorch.load(f, weights_only=True)\nnp.load(f, allow_pickle=False)\nyaml.safe_load(t)")
    )


def test_planted_imports_are_found() -> None:
    source = "import a.b\nfrom c.d import e\ndef f():\n    from nas.x import y\nif x:\n    from . import z"
    assert imported(source, "own") == {"a", "c", "nas", "own"}


def test_a_search_can_be_refused_without_heavy_libraries() -> None:
    """Reported within a second: nothing that answers 'is this feasible?' loads torch and its like."""
    script = f"""
import sys
import search_space, device_profiles, latency_models, nas.run.plan, nas.run.settings, nas.command.options
from search_space import UserError
plan = nas.run.plan.plan_search(nas.run.settings.SearchSettings())
try:
    nas.run.plan.plan_search(nas.run.settings.SearchSettings(budget_ms=0.001))
except UserError as error:
    assert "cannot be met" in str(error), error
else:
    raise AssertionError("an impossible budget was accepted")
loaded = {HEAVY!r} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, cwd=ROOT)


def test_the_space_alone_needs_nothing_but_the_standard_library_and_yaml() -> None:
    script = f"""
import sys
from search_space import cost_of, load_space, lower
assert cost_of(lower(load_space("quadranet").smallest(), 224, 1000)).macs > 0
loaded = ({HEAVY!r} | {{"numpy", "nas", "latency_models", "device_profiles"}}) & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, cwd=ROOT)
