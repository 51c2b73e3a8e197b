"""Entry points for ``torch.hub.load``: the bundled weights by name, and any other by `separator`.

>>> separator = torch.hub.load(".", "vocals", source="local")  # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

from svs_unet_plugin.separator import Separator

dependencies = ["filelock", "numpy", "soundfile", "soxr", "torch", "tqdm"]


def vocals(**options: Any) -> Separator:
    """The default weights; options as for `svs_unet_plugin.Separator`, such as ``device`` and ``views``."""
    return Separator("vocals", **options)


def small(**options: Any) -> Separator:
    """Smaller weights, 0.35 dB worse, in two thirds of the time; options as for `vocals`."""
    return Separator("small", **options)


def free(**options: Any) -> Separator:
    """Weights that were trained on data under free licences alone, 0.7 dB worse; options as for `vocals`."""
    return Separator("free", **options)


def separator(weights: str, **options: Any) -> Separator:
    """A checkpoint by its path, or as ``owner/name@revision`` on the Hugging Face Hub."""
    return Separator(weights, **options)
