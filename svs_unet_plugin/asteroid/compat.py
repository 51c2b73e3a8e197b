"""Make asteroid 0.7.0 work beside a CPU-only torch, and on today's torch, NumPy, SciPy and setuptools.

asteroid's last release is from 2023. ``import_asteroid`` imports it and makes each repair in ``REPAIRS``,
once. A repair changes only attributes of asteroid and of what came with it and is as old:
asteroid_filterbanks, pb_bss_eval and torchmetrics 0.11.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import importlib
import importlib.metadata
import inspect
import math
import os
import sys
import threading
from collections.abc import Callable, Container, Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from svs_unet_plugin.checkpoint import check_size, load_weights_only, numpy_globals, write
from svs_unet_plugin.errors import first_line
from svs_unet_plugin.module_view import module_view
from svs_unet_plugin.pickling import bring_repairs_along

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
            with _torch_stoi_beside_any_torch():
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


@contextlib.contextmanager
def _torch_stoi_beside_any_torch() -> Iterator[None]:
    """Give asteroid ``torch_stoi`` where torchaudio can't load its compiled half, until asteroid is imported.

    PyPI's torchaudio is built for CUDA: beside a CPU-only torch 2.11 or later its import ends in an
    ``OSError``, and asteroid's with it. ``torch_stoi`` only resamples by it, which is plain torch. So it gets
    a torchaudio without its compiled half, and keeps that for itself: to everybody else ``import torchaudio``
    is what it was. Where even that fails, asteroid goes without ``torch_stoi``.
    """
    hidden = False
    if not _imports("torch_stoi"):
        with _torchaudio_without_its_library():
            hidden = not _imports("torch_stoi")
    if hidden:
        sys.modules["torch_stoi"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules["torch_stoi"]


def _imports(name: str) -> bool:
    """Whether a package can be imported; nothing is left of an attempt in vain."""
    before = set(sys.modules)
    try:
        importlib.import_module(name)
    except Exception:  # whatever a library that does not load may raise
        _forget(name, "torchaudio", but=before)
        return False
    return True


def _forget(*packages: str, but: Container[str]) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] in packages and name not in but:
            del sys.modules[name]


@contextlib.contextmanager
def _torchaudio_without_its_library() -> Iterator[None]:
    """Let torchaudio be imported as if it had been built without its compiled half."""

    def absent(name: str) -> Any:
        if name.startswith("_IS_"):  # such a part is there
            return False
        if name.startswith("fail_if_no_"):  # decorates what needs such a part
            return lambda function: None
        raise AttributeError(name)

    before = set(sys.modules)
    extension = ModuleType("torchaudio._extension")
    extension.__getattr__ = absent  # type: ignore[method-assign]  # PEP 562
    sys.modules[extension.__name__] = extension
    try:
        yield
    finally:
        _forget("torchaudio", but=before)


class _AtImport(MetaPathFinder):
    """Has one module executed by a function of ours, when it is imported.

    Args:
        name: of the module.
        execute: called with the module and with what executes it.
    """

    def __init__(
        self, name: str, execute: Callable[[ModuleType, Callable[[ModuleType], None]], None]
    ) -> None:
        self.name, self.execute = name, execute

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            loader, plain = spec.loader, spec.loader.exec_module
            loader.exec_module = lambda module: self.execute(module, plain)  # type: ignore[method-assign]
        return spec


def _import_with(name: str, stand_in: ModuleType) -> None:
    """Let a module be imported with a stand-in that its own import statements alone see."""

    def find(wanted: str, *args: Any, **kwargs: Any) -> ModuleType:
        return stand_in if wanted == stand_in.__name__ else builtins.__import__(wanted, *args, **kwargs)

    def execute(module: ModuleType, plain: Callable[[ModuleType], None]) -> None:
        module.__builtins__ = {**vars(builtins), "__import__": find}  # type: ignore[attr-defined]
        plain(module)

    sys.meta_path.insert(0, _AtImport(name, execute))


def _other_processes() -> None:
    """Python 3.14 starts DataLoader's workers by a fork server; they would import asteroid as it is."""

    def execute(module: ModuleType, plain: Callable[[ModuleType], None]) -> None:
        plain(module)
        bring_repairs_along("asteroid", import_asteroid)

    bring_repairs_along("asteroid", import_asteroid)
    # The data sets take a second to import, and not every program needs them.
    sys.meta_path.insert(0, _AtImport("asteroid.data", execute))


def _torchmetrics() -> None:
    """setuptools 82 removed ``pkg_resources``, which torchmetrics 0.11 asks for versions."""
    packages = ModuleType("pkg_resources")
    packages.get_distribution = importlib.metadata.distribution  # type: ignore[attr-defined]
    packages.DistributionNotFound = importlib.metadata.PackageNotFoundError  # type: ignore[attr-defined]
    _import_with("torchmetrics.utilities.imports", packages)


def _dccrnet() -> None:
    """torch 2 takes no numpy integer for the size of a layer."""
    rnn_class = importlib.import_module("asteroid.masknn.recurrent").DCCRMaskNetRNN
    init = rnn_class.__init__

    @functools.wraps(init)
    def init_by_int(self: Any, in_size: int, *args: Any, **kwargs: Any) -> None:
        init(self, int(in_size), *args, **kwargs)

    rnn_class.__init__ = init_by_int


def _removed_numpy_names() -> None:
    """NumPy 1.24 removed ``np.int`` and ``np.float``, other names of Python's own, and 1.25 ``np.math``."""
    metrics = importlib.import_module("pb_bss_eval.evaluation.module_mir_eval")
    filterbank = importlib.import_module("asteroid_filterbanks.multiphase_gammatone_fb")
    metrics.np = filterbank.np = module_view(np, int=int, float=float, math=math)  # type: ignore[attr-defined]


def _serialize() -> None:
    """torch 2.6 made ``torch.load`` weights-only, which refuses the ``TorchVersion`` that asteroid saves."""
    model_class = importlib.import_module("asteroid.models.base_models").BaseModel
    serialize = model_class.serialize

    @functools.wraps(serialize)
    def serialize_plainly(self: Any) -> dict[str, Any]:
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
            path = base_models.cached_download(name)
            content = _load(path)
            if not isinstance(content, dict):
                raise ValueError(f"{path} is no checkpoint of a model: it holds a {type(content).__name__}")
            if content.get("model_name") == "SVSUNet":
                try:
                    _check_own(content, os.path.getsize(path))
                    return from_pretrained(cls, content, *args, **kwargs).eval()
                except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
                    reason = f"{type(error).__name__}: {first_line(error)}"
                    raise ValueError(f"{path} is no checkpoint of its own network: {reason}") from error
            if "sample_rate" not in content.get("model_args", {"sample_rate"}):
                content["model_args"]["sample_rate"] = base_models.SR_HASHTABLE.get(name)
        model = from_pretrained(cls, content, *args, **kwargs)
        return model.eval() if content.get("model_name") == "SVSUNet" else model

    base_models.BaseModel.from_pretrained = classmethod(from_data_only)


def _check_own(content: dict[str, Any], size: int) -> None:
    """See that a file of so many bytes holds all of the network that it describes.

    asteroid builds it before it looks at the weights.
    """
    transform = ("sample_rate", "window_length", "hop_length")
    arguments = {key: value for key, value in content["model_args"].items() if key not in transform}
    check_size(arguments, content["state_dict"], "network.", size)


def _load(path: str | os.PathLike[str], **kwargs: Any) -> Any:
    """``torch.load`` of what asteroid saves: data, ``TorchVersion`` and numpy's numbers."""
    return load_weights_only(path, [torch.torch_version.TorchVersion, *numpy_globals()])


def _commands() -> None:
    """torch 2.6 made ``torch.load`` weights-only, and two of asteroid's commands call it.

    They also write over the file that they have read, which is written whole or not at all here.
    """
    files = module_view(torch, load=_load, save=write)
    importlib.import_module("asteroid.models.publisher").torch = files  # type: ignore[attr-defined]
    name = "asteroid.scripts.asteroid_cli"
    _import_with(name, files)
    if name in sys.modules:
        importlib.reload(sys.modules[name])


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
REPAIRS: tuple[Callable[[], None], ...] = (
    _serialize,
    _from_pretrained,
    _commands,
    _overlap_add,
    _xumx,
    _dccrnet,
    _removed_numpy_names,
    _torchmetrics,
    _other_processes,
)
