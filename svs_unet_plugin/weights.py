"""Where weights are: a file, a bundled one, or one on the Hugging Face Hub."""

from __future__ import annotations

import logging
import os
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from svs_unet_plugin import files
from svs_unet_plugin.errors import first_line

PRETRAINED = Path(__file__).parent / "pretrained"
"""Where bundled weights lie: ``<name>.pth``, and a graph ``<name>.onnx`` whose weights are in the former."""

DEFAULT_NAME = "vocals"
"""The bundled weights that are taken when none are named."""

HUB_FILE = "pytorch_model.bin"
"""What a model's file is called on the Hugging Face Hub, for asteroid's ``from_pretrained`` too."""


def bundled() -> list[str]:
    """The names of the bundled weights, the default ones first."""
    names = (path.stem for path in PRETRAINED.glob("*.pth"))
    return sorted(names, key=lambda name: (name != DEFAULT_NAME, name))


def find(weights: str | os.PathLike[str] | None = None, suffix: str = ".pth") -> Path:
    """The file of weights.

    Args:
        weights: a path, the name of bundled weights, the id of a model on the Hugging Face Hub with a
            revision (``owner/name@revision``), or None for the default ones.
        suffix: which of a bundled name's files, ``.pth`` or ``.onnx``.

    Raises:
        FileNotFoundError: if there is neither such a file nor such a name, or the hub can't be reached and
            its file is not in the cache.
        ModuleNotFoundError: if the weights are on a hub and huggingface_hub is not installed.
    """
    name = DEFAULT_NAME if weights is None else os.fspath(weights)
    if weights is not None and Path(weights).is_file():
        return Path(weights)
    if name in bundled():
        return PRETRAINED / f"{name}{suffix}"
    if _HUB_ID.fullmatch(name):
        return _download(name)
    raise FileNotFoundError(
        f"no checkpoint at {name}, and no bundled weights of that name ({', '.join(bundled())}); "
        "a model on the Hugging Face Hub is owner/name@revision"
    )


def has_graph(weights: str | os.PathLike[str] | None) -> bool:
    """Whether weights are, or are also there as, an ONNX model; the hub has none."""
    if weights is not None and Path(weights).is_file():
        return Path(weights).suffix == ".onnx"
    name = DEFAULT_NAME if weights is None else os.fspath(weights)
    return (PRETRAINED / f"{name}.onnx").is_file()


_HUB_ID = re.compile(r"(?!.*\.\.)[\w.-]+/[\w.-]+@[\w./-]+")  # git takes no ".." either


def _download(hub_id: str) -> Path:
    """The file of a model on the Hugging Face Hub, from its cache if it is there.

    A revision is asked for, since what a branch holds today it may not hold tomorrow.

    Raises:
        ValueError: if the file is not the one that the hub has, whose name in the cache is its SHA-256.
    """
    name, revision = hub_id.split("@", 1)
    with asking_the_hub(hub_id) as reachable:
        from huggingface_hub import hf_hub_download

        path = Path(hf_hub_download(name, HUB_FILE, revision=revision, local_files_only=not reachable))
    held = path.resolve()
    if re.fullmatch(r"[0-9a-f]{64}", held.name) and files.digest(held) != held.name:
        raise ValueError(f"{held} is not what the hub has of {hub_id}: remove it, and try again")
    return path


@contextmanager
def asking_the_hub(model: str) -> Iterator[bool]:
    """Give whether the hub can be reached, and turn its errors into one sentence, without a log of retries.

    It is tried once, since huggingface_hub tries for half a minute.

    Args:
        model: what is asked for.

    Raises:
        FileNotFoundError: if it can't be had.
        ModuleNotFoundError: if huggingface_hub is not installed.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import LocalEntryNotFoundError, OfflineModeIsEnabled

    unreachable = "" if constants.HF_HUB_OFFLINE else _unreachable(constants.ENDPOINT)
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield not unreachable
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        reason = unreachable or "HF_HUB_OFFLINE is set"
        raise FileNotFoundError(f"{model} can't be had from the hub nor its cache: {reason}") from error
    except Exception as error:  # of the hub's, of httpx's, of requests', by its version
        reason = unreachable or first_line(error)
        raise FileNotFoundError(f"{model} can't be had from the hub: {reason}") from error
    finally:
        logger.setLevel(level)


def _unreachable(address: str) -> str:
    """Why a host can't be reached; empty if it answers, whatever it says."""
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError:
        pass
    except OSError as error:
        reason = getattr(error, "reason", error)
        if not isinstance(reason, ssl.SSLError):  # of which huggingface_hub has certificates of its own
            return f"{address} can't be reached ({getattr(reason, 'strerror', None) or reason})"
    return ""


def parts(path: Path) -> tuple[Path, ...]:
    """The files that weights are in: a bundled graph's are in the checkpoint beside it."""
    beside = path.with_suffix(".pth")
    return (path, beside) if _is_bundled(path) and path != beside else (path,)


def _is_bundled(path: Path) -> bool:
    return path.parent.resolve() == PRETRAINED.resolve()


def verify(path: Path) -> bool:
    """Compare bundled weights with the list of their checksums, which ``sha256sum -c`` reads too.

    Of any other file nothing is known.

    Returns:
        Whether it is a bundled file.

    Raises:
        ValueError: if a file is not the one that was bundled.
    """
    if not _is_bundled(path):
        return False
    lines = (PRETRAINED / "SHA256SUMS").read_text().splitlines()
    expected = {name: digest for digest, name in (line.split() for line in lines)}
    for part in parts(path):
        if files.digest(part) != expected.get(part.name):
            raise ValueError(f"{part} is damaged: it is not what SHA256SUMS beside it states; install again")
    return True
