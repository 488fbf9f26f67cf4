"""The pages that mkdocs makes from the code and from measured results, so that they cannot fall behind them.

A hook of mkdocs (see mkdocs.yml). Options, the fields of the files and the places of contracts are read from the
source when the site is built; experiments/results become pages of their own. Nothing it makes is committed.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from nas.command.options import Option, describe

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ("search", "train", "pack")
TITLES = {
    "table1": "Table I: size and speed",
    "table2": "Table II: training memory",
    "table3": "Table III: networks searched for three devices",
    "table3_longer": "Table III, trained longer",
    "table3_tiny_imagenet": "Table III on Tiny-ImageNet-50",
    "table3_imagenette": "Table III on Imagenette at 64 pixels",
    "table3_imagenette_32": "Table III on Imagenette at 32 pixels",
    "table5": "Table V: quadratic neurons across channels",
    "fig5": "Fig. 5 at small scale",
    "nasbench201": "NAS-Bench-201 under latency limits",
    "ground_truth": "How near searches come to the best network",
    "ranking": "What ranks networks, for how much CPU time",
    "training": "Mixing and averaging in short trainings",
    "budget": "Budgets kept and used",
    "budget_buys": "What a budget buys",
    "reference_networks": "Known networks, before and after the refits",
    "other_boards": "Boards without a profile beside the profiles",
    "own_photos": "A network for own photographs",
    "streaming": "Memory and speed of sharded images",
    "imagenet_cost": "What ImageNet would cost, on paper",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made, one of options and one for every table of results."""
    made = {"options.md": options_page()}
    for table in sorted((ROOT / "experiments" / "results").glob("*.md")):
        made[f"results/{table.name}"] = results_page(table)
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    for drawing in sorted((ROOT / "experiments" / "results").glob("*.svg")):
        files.append(File.generated(config, f"results/{drawing.name}", abs_src_path=str(drawing)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace `<!-- fields: NAME -->` and `<!-- place: NAME -->` by what the code says of a class or function."""
    return filled(markdown)


def filled(markdown: str) -> str:
    """The page with its placeholders filled. Raises `LookupError` for a name that the code does not have."""
    makers: dict[str, Callable[[str], str]] = {"fields": fields_of, "place": place_of}
    return re.sub(r"<!-- (fields|place): (\S+) -->", lambda found: makers[found[1]](found[2]), markdown)


def results_page(table: Path) -> str:
    """A file of experiments/results under its title, with its drawing where it has one."""
    drawing = table.with_suffix(".svg")
    figure = f"![{TITLES[table.stem]}]({drawing.name})\n\n" if drawing.is_file() else ""
    return f"# {TITLES[table.stem]}\n\n{figure}{table.read_text(encoding='utf-8')}"


# Options.


def options_page() -> str:
    """Every option of the hydra commands, from the settings themselves."""
    parts = [
        "# Options",
        "Options are written `key=value`, nested ones with a dot. A mistyped one is refused with the nearest name.",
    ]
    for command in COMMANDS:
        parts += [f"## python -m nas.{command}", *_option_tables(describe(command))]
    return "\n\n".join(parts) + "\n"


def _option_tables(rows: list[Option]) -> Iterator[str]:
    """One table of options without a dot, then one a group."""
    groups: dict[str, list[Option]] = {}
    for row in rows:
        groups.setdefault(row.name.partition(".")[0] if "." in row.name else "", []).append(row)
    columns = [
        name for name in ("type", "default", "wanted", "help") if any(getattr(row, name).strip() for row in rows)
    ]
    for group in sorted(groups, key=lambda name: name != ""):
        cells = [[f"`{row.name}`", *(_cell(getattr(row, name)) for name in columns)] for row in groups[group]]
        yield (f"### {group}\n\n" if group else "") + _table(["option", *columns], cells)


# Fields and places.


def fields_of(name: str) -> str:
    """A table of a dataclass' fields: name, type, default; before it what its docstring says."""
    kind = _find(name)
    hints = get_type_hints(kind)
    cells = [
        [f"`{field.name}`", _cell(_type_name(hints[field.name])), _cell(_default_of(field))]
        for field in dataclasses.fields(kind)
    ]
    said = textwrap.dedent(f"    {kind.__doc__ or ''}").strip()
    return f"{said}\n\n{_table(['field', 'type', 'default'], cells)}"


def place_of(name: str) -> str:
    """Where a class or function of a module is defined: file, line and its first line."""
    module, _, path = name.partition(":")
    file = Path(str(importlib.import_module(module).__file__)).resolve()
    source = file.read_text(encoding="utf-8")
    body: list[ast.stmt] = ast.parse(source).body
    node: ast.stmt | None = None
    for part in path.split("."):
        node = next((n for n in body if part in _names(n)), None)
        if node is None:
            raise LookupError(f"{module} defines no {path}")
        body = getattr(node, "body", [])
    assert node is not None
    line = source.splitlines()[node.lineno - 1].strip()
    return f"`{file.relative_to(ROOT)}`, line {node.lineno}: `{line}`"


def _names(node: ast.stmt) -> set[str]:
    match node:
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
            return {name}
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
        case ast.Assign(targets=targets):
            return {target.id for target in targets if isinstance(target, ast.Name)}
    return set()


def _find(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def _type_name(hint: Any) -> str:
    arguments = get_args(hint)
    if arguments and type(None) in arguments:
        return " or ".join([*(_type_name(a) for a in arguments if a is not type(None)), "null"])
    if isinstance(hint, type) and not arguments:
        return hint.__name__
    return re.sub(r"\b(?:\w+\.)+", "", str(hint))


def _default_of(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return "null" if field.default is None else str(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return str(field.default_factory()) or "empty"
    return ""


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
