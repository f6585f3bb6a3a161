"""The order of the house: which folder may import which, and that nothing goes in circles.

Imports are read from the syntax trees, those for type checkers and inside functions included.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.support.paths import ROOT

ROOMS = (
    ("errors",),
    ("version", "atomic"),
    ("weights",),
    ("contract",),
    ("sources", "chain", "renamed"),
    ("config", "telemetry"),
    ("storage",),
    ("worker",),
    ("scheduling", "local"),
    ("lifecycle",),
    ("cluster",),
    ("api",),
    ("jobs", "capacity"),
    ("cli",),
)
"""Of `pipeline/`, from the bottom up; rooms on one line do not know each other."""

LIBRARIES = ("_kernels", "_geometry", "_networks", "_gaussians", "_formats", "_rendering")
"""Of `stages/`, from the bottom up; every step stands above all of them."""

OPEN_TO_STAGES = ("contract", "weights", "errors", "atomic")
"""All that a stage may import of `pipeline/`."""

SHARED_BY_STEPS = {
    # Disparity is flow between two views: the same network, weights, tiles and way back.
    ("depth/stereo.py", "stages.flow"),
}
"""Imports from one step into another."""

FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("pipeline", "stages")
    for path in sorted((ROOT / package).rglob("*.py"))
}
"""Module name to its file."""


def imported(path: Path) -> set[str]:
    """Return the modules that a file imports, each as a module and not as a name in one."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in FILES else node.module)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "later":
            found.add(ast.literal_eval(node.args[0]))
    return found


IMPORTS = {name: imported(path) for name, path in FILES.items()}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_every_room_is_in_the_list() -> None:
    here = {room_of(name) for name in FILES if name.startswith("pipeline.")}
    assert here == {room for row in ROOMS for room in row}


def test_a_room_imports_only_rooms_below_it() -> None:
    floor = {room: number for number, row in enumerate(ROOMS) for room in row}
    wrong = [
        (module, other)
        for module, others in IMPORTS.items()
        if module.startswith("pipeline.")
        for other in others
        if other.startswith("pipeline.")
        and room_of(other) != room_of(module)
        and floor[room_of(other)] >= floor[room_of(module)]
    ]
    assert wrong == []


def test_what_a_room_re_exports_is_imported_from_the_room() -> None:
    """`from pipeline.worker import StageHost`: which file holds it is the room's own business."""
    offered = {
        (f"pipeline.{room}.{module}", name)
        for room in {room_of(module) for module in FILES if module.startswith("pipeline.")}
        for module, name in re_exports(f"pipeline.{room}")
    }
    assert ("pipeline.contract.stage", "Stage") in offered
    wrong = [
        (module, f"{node.module}.{alias.name}")
        for module, path in FILES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
        if (node.module, alias.name) in offered
        and module.split(".")[:2] != node.module.split(".")[:2]
    ]
    assert wrong == []


def re_exports(room: str) -> set[tuple[str, str]]:
    """Return each name that a room's `__init__` imports, with the file that it comes from."""
    if FILES.get(room, Path()).name != "__init__.py":
        return set()
    tree = ast.parse(FILES[room].read_text(encoding="utf-8"))
    return {
        (node.module.removeprefix(f"{room}."), alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }


def test_no_import_goes_in_a_circle() -> None:
    assert circles(IMPORTS) == []


def test_a_circle_is_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set[str]()}
    assert circles(graph) == [{"a", "b", "c"}]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set[str]()}) == []


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Return the sets of modules of which each reaches every other (Tarjan)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(name: str) -> None:
        number[name] = lowest[name] = len(number)
        stack.append(name)
        for other in graph[name] & graph.keys():
            if other not in number:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in stack:
                lowest[name] = min(lowest[name], number[other])
        if lowest[name] == number[name]:
            part = set(stack[stack.index(name) :])
            del stack[stack.index(name) :]
            if len(part) > 1:
                found.append(part)

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)
    try:
        for name in graph:
            if name not in number:
                visit(name)
    finally:
        sys.setrecursionlimit(limit)
    return found


def test_stages_import_the_contract_alone() -> None:
    wrong = []
    for module, others in IMPORTS.items():
        if not module.startswith("stages"):
            continue
        # The schemes and logins of addresses are a decoder's business too.
        open_rooms = {*OPEN_TO_STAGES, *(["sources"] if room_of(module) == "decode" else [])}
        for other in others:
            if other.split(".")[0] == "pipeline" and room_of(other) not in open_rooms:
                wrong.append((module, other))
    assert wrong == []


def test_a_library_of_stages_imports_only_libraries_below_it() -> None:
    wrong = []
    for module, others in IMPORTS.items():
        if room_of(module) in LIBRARIES:
            below = LIBRARIES[: LIBRARIES.index(room_of(module)) + 1]
            wrong += [
                (module, other)
                for other in others
                if other.startswith("stages.") and room_of(other) not in below
            ]
    assert wrong == []


def test_a_step_imports_no_other_step() -> None:
    wrong = []
    for module, others in IMPORTS.items():
        if not module.startswith("stages.") or room_of(module) in LIBRARIES:
            continue
        file = str(FILES[module].relative_to(ROOT / "stages"))
        for other in others:
            step = room_of(other)
            foreign = other.startswith("stages.") and step not in (room_of(module), *LIBRARIES)
            if foreign and (file, f"stages.{step}") not in SHARED_BY_STEPS:
                wrong.append((module, other))
    assert wrong == []


def test_the_pipeline_never_imports_a_stage() -> None:
    wrong = [
        (module, other)
        for module, others in IMPORTS.items()
        if module.startswith("pipeline")
        for other in others
        if other.split(".")[0] in ("stages", "tests", "benchmarks")
    ]
    assert wrong == []


def test_only_the_cluster_and_its_client_import_ray() -> None:
    having = {
        module
        for module, others in IMPORTS.items()
        if any(other.split(".")[0] == "ray" for other in others)
    }
    assert {m for m in having if room_of(m) != "cluster"} <= {"pipeline.jobs.client"}
    assert having, "nothing imports ray: this test reads the wrong files"


def test_no_class_name_is_used_twice_across_rooms() -> None:
    """A name in a traceback or in grep's answer means one thing.

    Every model has a `Config` and a `Model`; private names stay in their file.
    """
    rooms: dict[str, set[str]] = defaultdict(set)
    for module, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                rooms[node.name].add(".".join(module.split(".")[:2]))
    for name in ("Config", "Model"):
        del rooms[name]
    assert {name: sorted(where) for name, where in rooms.items() if len(where) > 1} == {}


@pytest.mark.parametrize("package", ["pipeline", "stages"])
def test_every_folder_says_what_it_is_for(package: str) -> None:
    for path in sorted((ROOT / package).rglob("__init__.py")):
        said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert said, f"{path} has no docstring"
