"""Hooks of MkDocs: the pages of the site that are made from other files, and a check of all its links.

The README, the recipes' READMEs and the change log appear as they are. The commands and their options are
what the programs print for ``--help``, and the API is every public module: neither is copied by hand.
"""

from __future__ import annotations

import ast
import functools
import logging
import os
import posixpath
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import click
import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "svs_unet_plugin"
os.environ |= {"TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore"}  # for the notebook, which is a page here
log = logging.getLogger("mkdocs.hooks.site_pages")

SOURCES = {
    "index.md": "README.md",
    "recipes/index.md": "recipes/README.md",
    "recipes/mir1k-nussl.md": "recipes/mir1k/nussl/README.md",
    "recipes/musdb18-nussl.md": "recipes/musdb18/nussl/README.md",
    "recipes/musdb18-asteroid.md": "recipes/musdb18/asteroid/README.md",
    "weights.md": f"{PACKAGE}/pretrained/README.md",
    "benchmarks.md": "benchmarks/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
"""Files of the repository, by the page that shows them."""

ROOMS = ("core", "corpora", "mixing", "training", "evaluation", "nussl", "asteroid")
"""The parts of the package, a page each; the core is what lies outside the others."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here."""
    pages = {page: (ROOT / source).read_text(encoding="utf-8") for page, source in SOURCES.items()}
    pages |= {f"api/{room}.md": api(room) for room in ROOMS}
    pages["commands.md"] = commands()
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages."""
    uri = page.file.src_uri
    source = SOURCES.get(uri, f"docs/{uri}")
    if not (ROOT / source).is_file():
        return markdown
    parts = re.split(r"(^(?:```|~~~).*?^(?:```|~~~)\s*$)", markdown, flags=re.DOTALL | re.MULTILINE)
    for i in range(0, len(parts), 2):  # what is not in fences
        parts[i] = re.sub(
            r"(!?\[(?:[^][]|\[[^]]*\])*\])\(([^)\s]+)\)",
            lambda link: _link(link[1], link[2], source, uri),
            parts[i],
        )
    return "".join(parts)


def _link(label: str, target: str, source: str, uri: str) -> str:
    """A Markdown link from one page to another, or its words alone if no page shows the file."""
    path, _, anchor = target.partition("#")
    if urlsplit(target).scheme or not path:
        return f"{label}({target})"
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    shown_by = {shown: page for page, shown in SOURCES.items()}
    page = shown_by.get(path) or shown_by.get(f"{path}/README.md")
    if page is None:
        module = path.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".")
        if path.startswith("docs/"):
            page = path.removeprefix("docs/")
        elif path.startswith(f"{PACKAGE}/") and (ROOT / path).exists() and path.endswith(".py"):
            page, anchor = f"api/{_room(module)}.md", module
        elif (ROOT / path).exists():
            return label[1:-1]
        else:
            page = path  # MkDocs warns that it is not there
    relative = posixpath.relpath(page, posixpath.dirname(uri) or ".")
    return f"{label}({relative}{'#' * bool(anchor)}{anchor})"


def _room(module: str) -> str:
    part = module.split(".")[1] if "." in module else ""
    return part if part in ROOMS else "core"


def api(room: str) -> str:
    """The page of a room: its modules, each with the docstrings of what is public in it."""
    lines = ["---", "search:", "  boost: 0.5", "---", f"# {room}", ""]
    modules = {}
    for path in (ROOT / PACKAGE).rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if _room(name) == room and not any(part.startswith("_") for part in name.split(".")):
            modules[name] = path
    for name, path in sorted(modules.items()):
        lines.append(f"::: {name}\n")
        exported, own = _exported(path) if path.name == "__init__.py" else ([], [])
        if exported:  # a package's own words and members, and what it exports from the modules that follow
            links = ", ".join(f"[`{member}`][{name}.{member}]" for member in exported)
            lines.append(f"    options: {{members: {own}}}\n\n`import {name}` provides {links}.\n")
    return "\n".join(lines)


def _exported(path: Path) -> tuple[list[str], list[str]]:
    """The names in a module's ``__all__``, and those of them that it defines itself."""
    exported, defined = [], set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            defined.add(node.targets[0].id)
            if node.targets[0].id == "__all__":
                exported = [name for name in ast.literal_eval(node.value) if not name.startswith("__")]
    return exported, [name for name in exported if name in defined]


class Doctests(griffe.Extension):
    """Fences the examples in docstrings: to Markdown, ``>>>`` is a quotation."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of an object."""
        if obj.docstring:
            obj.docstring.value = re.sub(
                r"^( *)(>>> .*(?:\n *\S.*)*)",
                r"\1```pycon\n\1\2\n\1```",
                obj.docstring.value,
                flags=re.MULTILINE,
            )


def commands() -> str:
    """The page of all commands and options, as the programs print them."""
    os.environ["COLUMNS"] = "100"  # what programs take for the width of the terminal
    sys.path.insert(0, str(ROOT))
    from svs_unet_plugin.cli.program import svs_unet

    lines = ["# Commands", ""]
    for words, command in _commands(svs_unet, "svs-unet"):
        if command.add_help_option:
            with click.Context(command, info_name=" ".join(words), **svs_unet.context_settings) as context:
                text = command.get_help(context)
        else:  # another program's, with options of its own
            text = _help(*words)
        lines += [f"## {' '.join(words)}" if len(words) > 1 else "", f"```text\n{text.strip()}\n```", ""]
    for script in sorted([*ROOT.glob("recipes/**/run.sh"), *ROOT.glob("recipes/demo/run.py")]):
        program = "bash" if script.suffix == ".sh" else sys.executable
        text = _help(program, str(script))
        lines += [f"## {script.relative_to(ROOT)}", "", f"```text\n{text.strip()}\n```", ""]
    return "\n".join(lines)


def _commands(command: click.Command, *words: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield words, command
    if isinstance(command, click.Group):
        for name, inner in sorted(command.commands.items()):
            yield from _commands(inner, *words, name)


def _help(*command: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, "--help"], env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def on_post_build(config: MkDocsConfig) -> None:
    """Warn, and so fail, where a link leads nowhere or a page would load something from elsewhere.

    MkDocs checks the links of Markdown; this also sees those of the notebook, the theme and the API.
    """
    site = Path(config.site_dir)

    @functools.cache
    def read(path: Path) -> _Links:
        links = _Links()
        links.feed(path.read_text(encoding="utf-8"))
        return links

    for path in sorted(site.rglob("*.html")):
        if path.name == "404.html":  # its links begin at the root of a server
            continue
        for tag, target in read(path).links:
            address = urlsplit(target)
            where = f"{path.relative_to(site)}: {target}"
            if address.scheme in ("data", "mailto", "javascript"):
                continue
            if address.scheme or address.netloc:
                if tag != "a":
                    log.warning("%s would be loaded from another host", where)
                continue
            file = path.parent / unquote(address.path) if address.path else path
            if file.is_dir():
                file = file / "index.html"
            if not file.exists():
                log.warning("%s leads nowhere", where)
            elif address.fragment and file.suffix == ".html":
                if unquote(address.fragment) not in read(file.resolve()).anchors:
                    log.warning("%s has no such anchor", where)


class _Links(HTMLParser):
    """What a page links to or loads, and what can be linked to in it."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[tuple[str, str]] = []
        self.anchors = {"__top"}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        values = dict(attrs)
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        for name in ("href", "src"):
            if values.get(name) and not (tag == "link" and values.get("rel") == "canonical"):
                self.links.append((tag, values[name]))
