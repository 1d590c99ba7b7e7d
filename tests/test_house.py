"""The house: rooms of at most twelve files, modules that fit a page or two, imports by the door."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = [path for top in ("pruning", "search") for path in sorted((ROOT / top).rglob("*.py"))]
ROOMS = sorted({path.parent for path in MODULES})
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("room", ROOMS, ids=name)
def test_a_room_holds_twelve_files_at_most_and_says_what_it_is_for(room: Path) -> None:
    assert len([p for p in room.glob("*.py") if p.name != "__init__.py"]) <= 12
    assert ast.get_docstring(ast.parse((room / "__init__.py").read_text())), name(room)


@pytest.mark.parametrize("module", [*MODULES, *TESTS], ids=name)
def test_a_module_has_250_lines_at_most(module: Path) -> None:
    assert len(module.read_text().splitlines()) <= 250


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_other_rooms_are_entered_by_their_door(module: Path) -> None:
    """What a room offers stands in its __init__.pyi; nothing else of it is imported elsewhere."""
    own = ".".join(module.parent.relative_to(ROOT).parts[:2])
    deep = []
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            top, *rest = node.module.split(".")
            if top in ("pruning", "search") and len(rest) > 1 and f"{top}.{rest[0]}" != own:
                deep.append(node.module)
    assert not deep, f"import these from their room's __init__: {deep}"


@pytest.mark.parametrize("room", [r for r in ROOMS if (r / "__init__.pyi").exists()], ids=name)
def test_what_a_room_offers_is_there(room: Path) -> None:
    import importlib

    package = importlib.import_module(name(room).replace("/", "."))
    for offered in package.__all__:
        assert getattr(package, offered) is not None
