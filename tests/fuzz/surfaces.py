"""All that reads from outside, and how many cases of each there are in twenty."""

from fuzz import networks, sounds, texts
from fuzz.driver import Surface

SURFACES: dict[str, tuple[int, Surface]] = {
    "audio": (4, sounds.reading),
    "checkpoints": (4, networks.reading),
    "graphs": (1, networks.graphs),
    "page": (2, sounds.page),
    "manifests": (2, texts.manifest),
    "names": (2, texts.names),
    "recipes": (1, texts.recipe),
    "scores": (1, texts.scores),
    "settings": (2, texts.settings),
    "tags": (1, texts.tagged),
}


def prepare() -> None:
    """Make all good input now, and not in the process of each case."""
    sounds.songs()
    networks.files()
    networks.contents()
    networks.graph()
    texts.results()
