"""Which weights there are: ``svs-unet weights``."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import click

from svs_unet_plugin.files import printable

PACKAGE = b"svs_unet_plugin"


@click.command(short_help="List weights: bundled, in the cache, on a hub.")
@click.argument("models", nargs=-1, metavar="[OWNER/NAME]...")
def weights(models: tuple[str, ...]) -> None:
    """List the weights that are here, with scores, size and licence.

    These are the bundled ones, and models of the Hugging Face Hub that are in its cache. For each OWNER/NAME,
    the hub is asked for its model card.
    """
    blocks = map(_on_hub, models) if models else [*_bundled(), *_cached()]
    print("\n\n".join("\n".join(block) for block in blocks))


def card_tables(card: str) -> dict[str, dict[str, str]]:
    """What the tables of a model card say: by the column's name, by the row's."""
    found: dict[str, dict[str, str]] = {}
    header: list[str] = []
    for line in card.splitlines():
        cells = [cell.strip().replace("`", "") for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            header = []
        elif not header:
            header = cells
        elif not set(line) <= set("|-: "):
            for name, cell in zip(header[1:], cells[1:], strict=True):
                found.setdefault(name.partition(" ")[0], {})[cells[0]] = cell
    return found


def _bundled() -> Iterator[list[str]]:
    from svs_unet_plugin.weights import DEFAULT_NAME, PRETRAINED, bundled

    card = (PRETRAINED / "README.md").read_text(encoding="utf-8")
    tables = card_tables(card)
    for name in bundled():
        path = PRETRAINED / f"{name}.pth"
        said = tables.get(name, {})
        lines = [f"{name}: bundled" + (", the default" if name == DEFAULT_NAME else "")]
        lines += _rows(file=str(path), size=_size(path))
        for row, cell in said.items():
            before = tables.get("mixture", {}).get(row)
            cell = tables[DEFAULT_NAME][row] if cell == f"as {DEFAULT_NAME}" else cell
            if before is not None:
                lines += _rows(SDR=f"{cell} dB (the mixture: {before} dB), {row}")
            elif row != "file":
                lines += _rows(**{row: cell})
        yield lines


def _cached() -> Iterator[list[str]]:
    """Models of this package in the hub's cache; those of others have the same file name."""
    from svs_unet_plugin.weights import HUB_FILE

    try:
        from huggingface_hub import constants, scan_cache_dir
        from huggingface_hub.utils import CacheNotFound
    except ImportError:
        return
    try:
        repositories = sorted(
            scan_cache_dir(constants.HF_HUB_CACHE).repos, key=lambda repository: repository.repo_id
        )
    except CacheNotFound:
        return
    for repository in repositories:
        for revision in sorted(repository.revisions, key=lambda revision: revision.commit_hash):
            path = revision.snapshot_path / HUB_FILE
            if path.is_file() and _is_ours(path):
                lines = [f"{repository.repo_id}@{revision.commit_hash}: in the cache of the hub"]
                yield lines + _rows(file=str(path), size=_size(path))


def _is_ours(path: Path) -> bool:
    """Whether a file of ``torch.save`` names this package's network; it is not opened for that."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            if archive.getinfo(name).file_size > path.stat().st_size:  # torch.save does not compress
                return False
            content = archive.read(name)
            return b"SVSUNet" in content or PACKAGE in content  # asteroid's file, or nussl's
    except (OSError, zipfile.BadZipFile, StopIteration):
        return False


def _on_hub(model: str) -> list[str]:
    from svs_unet_plugin.weights import HUB_FILE, asking_the_hub

    with asking_the_hub(model):
        from huggingface_hub import HfApi

        name, _, revision = model.partition("@")
        info = HfApi().model_info(name, revision=revision or None, files_metadata=True)
    sizes = [file.size for file in info.siblings or () if file.rfilename == HUB_FILE and file.size]
    lines = [f"{name}@{info.sha}: on the hub"]
    lines += _rows(size=f"{sizes[0] / 1e6:.1f} MB" if sizes else f"there is no {HUB_FILE} in it")
    card = info.card_data
    for result in (card.eval_results if card else None) or ():
        lines += _rows(
            **{result.metric_name or result.metric_type: f"{result.metric_value}, {result.dataset_name}"}
        )
    return lines + _rows(licence=str((card.license if card else None) or "not stated"))


def _rows(**values: str) -> list[str]:
    """Lines of names and values, of which a hub may send any; none may do something to the terminal."""
    return [f"  {printable(name):<10} {printable(value)}" for name, value in values.items()]


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"
