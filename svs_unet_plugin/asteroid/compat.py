"""Make asteroid 0.7.0 work beside a CPU-only torch, and on today's torch and SciPy.

asteroid's last release is from 2023. ``import_asteroid`` imports it and makes each repair in ``REPAIRS``,
once. A repair changes only asteroid's own attributes.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from svs_unet_plugin.checkpoint import check_size, load_weights_only, numpy_globals

_lock = threading.RLock()


def import_asteroid() -> ModuleType:
    """Import asteroid, repaired.

    Returns:
        The ``asteroid`` module; afterwards a plain ``import asteroid`` anywhere gives the same one.

    Raises:
        ImportError: asteroid is not installed.
    """
    with _lock:
        try:
            with _without_a_broken_torch_stoi():
                asteroid = importlib.import_module("asteroid")
                # The part that takes torch_stoi; imported by the above, unless an import failed before.
                importlib.import_module("asteroid.losses")
        except ModuleNotFoundError as error:
            if error.name != "asteroid":
                raise
            needed = "asteroid is not installed: pip install 'svs_unet_plugin[asteroid]'"
            raise ImportError(needed) from error
        if not hasattr(asteroid, "_repaired_by_svs_unet_plugin"):
            for repair in REPAIRS:
                repair()
            asteroid._repaired_by_svs_unet_plugin = True  # type: ignore[attr-defined]
        return asteroid


def import_lightning() -> ModuleType:
    """Import Lightning without what its torchmetrics 0.11 says about ``pkg_resources`` each time."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
        return importlib.import_module("pytorch_lightning")


@contextlib.contextmanager
def _without_a_broken_torch_stoi() -> Iterator[None]:
    """Hide ``torch_stoi`` from asteroid where it can't be imported, until asteroid is.

    It takes torchaudio, and PyPI's torchaudio is built for CUDA: beside a CPU-only torch 2.11 or later its
    import ends in an ``OSError``, and asteroid's with it, though only the loss ``SingleSrcNegSTOI`` needs it.
    """
    before = set(sys.modules)
    try:
        importlib.import_module("torch_stoi")
        broken = False
    except Exception:  # whatever a library that does not load may raise
        broken = True
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in ("torch_stoi", "torchaudio"):
                del sys.modules[name]
        sys.modules["torch_stoi"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if broken:
            del sys.modules["torch_stoi"]


def _serialize() -> None:
    """torch 2.6 made ``torch.load`` weights-only, which refuses the ``TorchVersion`` that asteroid saves."""
    model_class = importlib.import_module("asteroid.models.base_models").BaseModel
    serialize = model_class.serialize

    @functools.wraps(serialize)
    def serialize_plainly(self: Any) -> dict[str, Any]:
        import_lightning()
        content = serialize(self)
        versions = content["infos"]["software_versions"]
        content["infos"]["software_versions"] = {name: str(version) for name, version in versions.items()}
        return content

    model_class.serialize = serialize_plainly


def _from_pretrained() -> None:
    """torch 2.6 made ``torch.load`` weights-only; published files hold ``TorchVersion`` and numpy's numbers.

    Still nothing in a file can run. A model of ours comes out in evaluation mode; asteroid's stay as they
    are, in training mode, as their users expect.
    """
    base_models = importlib.import_module("asteroid.models.base_models")
    from_pretrained = base_models.BaseModel.from_pretrained.__func__

    @functools.wraps(from_pretrained)
    def from_data_only(cls: type, pretrained_model_conf_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        content = pretrained_model_conf_or_path
        if not isinstance(content, dict):
            name = os.fspath(content)
            allowed = [torch.torch_version.TorchVersion, *numpy_globals()]
            path = base_models.cached_download(name)
            content = load_weights_only(path, allowed)
            if content.get("model_name") == "SVSUNet":  # asteroid builds it before it looks at the weights
                transform = ("sample_rate", "window_length", "hop_length")
                arguments = {k: v for k, v in content.get("model_args", {}).items() if k not in transform}
                try:
                    check_size(arguments, content.get("state_dict", {}), "network.", os.path.getsize(path))
                except ValueError as error:
                    raise ValueError(f"{path} is no checkpoint of its own network: {error}") from error
            if "sample_rate" not in content.get("model_args", {"sample_rate"}):
                content["model_args"]["sample_rate"] = base_models.SR_HASHTABLE.get(name)
        model = from_pretrained(cls, content, *args, **kwargs)
        return model.eval() if getattr(model, "loads_in_evaluation_mode", False) else model

    base_models.BaseModel.from_pretrained = classmethod(from_data_only)


def _overlap_add() -> None:
    """SciPy 1.9 no longer knows a window 'hanning', which is the default of ``asteroid-infer -w``."""
    overlap_class = importlib.import_module("asteroid.dsp.overlap_add").LambdaOverlapAdd
    init = overlap_class.__init__

    @functools.wraps(init)
    def init_by_either_name(*args: Any, **kwargs: Any) -> None:
        arguments = inspect.signature(init).bind(*args, **kwargs).arguments
        if arguments.get("window") == "hanning":
            arguments["window"] = "hann"
        init(**arguments)

    overlap_class.__init__ = init_by_either_name


def _xumx() -> None:
    """torch 2.0 takes only complex tensors in ``istft``, and asteroid 0.7.0 just raises in place of X-UMX.

    Its ``stft`` warns that it will soon make only those, too.
    """
    x_umx = importlib.import_module("asteroid.models.x_umx")
    models = importlib.import_module("asteroid.models")

    def analyse(self: Any, x: Tensor) -> Tensor:
        """Audio ``(batch, channels, samples)`` to ``(batch, channels, bins, frames, 2)``."""
        spectrum = torch.stft(
            x.flatten(0, 1),
            self.n_fft,
            self.n_hop,
            window=self.window,
            center=self.center,
            pad_mode="reflect",
            return_complex=True,
        )
        return torch.view_as_real(spectrum).unflatten(0, x.shape[:2])

    def inverse(self: Any, spec: Tensor, ang: Tensor) -> Tensor:
        """Magnitudes ``(sources, batch, channels, bins, frames)`` and phases to ``(…, samples)``."""
        spectrum = torch.polar(spec, ang.expand_as(spec))
        audio = torch.istft(
            spectrum.flatten(0, 2), self.n_fft, self.hop_length, window=self.window, center=self.center
        )
        return audio.reshape(*spec.shape[:3], -1)

    x_umx._STFT.forward, x_umx._ISTFT.forward = analyse, inverse
    # The name is what a saved model is found by.
    working = type(
        "XUMX", (x_umx.BrokenXUMX,), {"__doc__": x_umx.BrokenXUMX.__doc__, "__module__": x_umx.__name__}
    )
    x_umx.XUMX = models.XUMX = working  # type: ignore[attr-defined]


#: Every repair, in the order in which it is made. None depends on another.
REPAIRS: tuple[Callable[[], None], ...] = (_serialize, _from_pretrained, _overlap_add, _xumx)
