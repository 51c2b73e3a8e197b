"""Who may import whom: arrows point one way, and each host stays in its room."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "svs_unet_plugin"
LAYERS = (
    ("cli",),
    ("catalogue",),
    ("nussl", "asteroid"),
    ("page",),
    ("evaluation",),
    ("training",),
    ("mixing",),
    ("corpora",),
    ("streaming",),
    ("separator",),
    ("encoding", "export", "pipeline", "progress"),
    ("arrays", "checkpoint", "chunks"),
    ("treble", "engines", "torch_stft", "weights"),
    ("audio", "stft", "unet", "spectrogram", "errors"),
    ("ffmpeg", "mp3", "files", "workers", "module_view", "pickling"),
    ("threads",),
)
"""The rooms from the top; a room may import what is below it, and nothing beside it."""

LAYER = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
HOSTS = ("nussl", "asteroid", "asteroid_filterbanks", "ignite", "pytorch_lightning")


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(name: str) -> Iterator[str]:
    """Everything that a module imports, wherever in it the import stands; modules of this package in full."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            if node.args and isinstance(node.args[0], ast.Constant):
                yield node.args[0].value


def room(name: str) -> str:
    """The room of a module of this package; that of the package itself is "", from which all can be had."""
    return (name.split(".") + [""])[1]


def test_every_room_has_a_layer() -> None:
    assert {room(name) for name in MODULES} - {""} == set(LAYER)


@pytest.mark.parametrize("name", [name for name in MODULES if room(name)])
def test_arrows_point_down(name: str) -> None:
    for other in imports(name):
        if other in MODULES and room(other) != room(name):
            if room(name) == "cli":
                continue
            assert room(other), f"{name} imports the package itself, and with it what is above: {other}"
            assert LAYER[room(other)] > LAYER[room(name)], f"{name} imports {other}"


@pytest.mark.parametrize("name", MODULES)
def test_hosts_are_imported_in_their_rooms_alone(name: str) -> None:
    used = {other.partition(".")[0] for other in imports(name)} & set(HOSTS)
    allowed = {"nussl": {"nussl", "ignite"}, "asteroid": set(HOSTS) - {"nussl", "ignite"}}
    assert used <= allowed.get(room(name), set())


def test_no_two_modules_import_each_other() -> None:
    graph = {name: {other for other in imports(name) if other in MODULES} - {name} for name in MODULES}
    for package in [name for name, path in MODULES.items() if path.name == "__init__.py"]:
        # A package offers what its modules have; that these name it is no cycle.
        graph[package] = {other for other in graph[package] if not other.startswith(f"{package}.")}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
