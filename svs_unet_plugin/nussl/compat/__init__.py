"""Make nussl 1.1.9 work on today's SciPy, NumPy, librosa, pandas, torch, zarr and gradio.

nussl's last release is from 2021. ``import_nussl`` imports it and makes each repair in ``REPAIRS``, once.
A repair changes only attributes of nussl, and of scaper and museval, which it works with: what scipy, numpy,
librosa and torch offer to everybody else in the process stays as it is. (Only the import needs three names
back in ``scipy.signal``, until it ends.)
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import io
import json
import os
import threading
from collections.abc import Callable, Iterator
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from svs_unet_plugin.checkpoint import check_size, load_weights_only, numpy_globals
from svs_unet_plugin.corpora.musdb import SETUP_FILE
from svs_unet_plugin.errors import first_line
from svs_unet_plugin.evaluation.metrics import import_museval
from svs_unet_plugin.files import write_bytes
from svs_unet_plugin.mixing.scaper import import_scaper
from svs_unet_plugin.module_view import module_view
from svs_unet_plugin.nussl.compat.optional import stand_ins
from svs_unet_plugin.pickling import bring_repairs_along

_lock = threading.RLock()
_allowed: list[type] = []


def import_nussl() -> ModuleType:
    """Import nussl, repaired.

    Returns:
        The ``nussl`` module; afterwards a plain ``import nussl`` anywhere gives the same one.

    Raises:
        ImportError: nussl is not installed, or a package that all of it needs.
    """
    with _lock:
        try:
            with _windows_in_scipy_signal(), stand_ins():
                nussl = importlib.import_module("nussl")
        except ModuleNotFoundError as error:
            missing = error.name if importlib.util.find_spec("nussl") else "nussl"
            raise ImportError(f"{missing} is not installed: pip install 'svs_unet_plugin[nussl]'") from error
        if not hasattr(nussl, "_repaired_by_svs_unet_plugin"):
            for repair in REPAIRS:
                repair()
            nussl._repaired_by_svs_unet_plugin = True  # type: ignore[attr-defined]
        return nussl


def allow(*classes: type) -> None:
    """Let checkpoints hold objects of these classes (transforms of our own)."""
    _allowed.extend(cls for cls in classes if cls not in _allowed)


def safe_globals() -> list[Any]:
    """Everything that a nussl checkpoint may name, for `load_weights_only`.

    These are STFTParams, Compose and nussl's transforms, the classes given to ``allow``, and numpy's numbers
    (the loss history is full of them). ``transforms.Cache`` is left out: nussl takes it out of what it saves,
    and one that a stranger made would wipe a folder of the stranger's choice as soon as a dataset gets it.
    """
    nussl = import_nussl()
    transforms = nussl.datasets.transforms
    own = [
        cls
        for cls in vars(transforms).values()
        if isinstance(cls, type)
        and cls.__module__ == transforms.__name__
        and cls is not transforms.Cache
        and not issubclass(cls, Exception)
    ]
    # A checkpoint carries numpy's names as of the day it was written; numpy 2.0 renamed this one.
    old_scalar = (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar")
    return [nussl.STFTParams, *own, *_allowed, *numpy_globals(), old_scalar]


@contextlib.contextmanager
def _windows_in_scipy_signal() -> Iterator[None]:
    """SciPy 1.13 took hamming, hann and blackman out of ``scipy.signal``; nussl names them on import."""
    import scipy.signal
    import scipy.signal.windows

    missing = [name for name in ("hamming", "hann", "blackman") if not hasattr(scipy.signal, name)]
    for name in missing:
        setattr(scipy.signal, name, getattr(scipy.signal.windows, name))
    try:
        yield
    finally:
        for name in missing:
            delattr(scipy.signal, name)


def _duet() -> None:
    """NumPy 2.0 removed ``np.mat``, which DUET calls."""
    duet = importlib.import_module("nussl.separation.spatial.duet")
    duet.np = module_view(np, mat=np.asmatrix)  # type: ignore[attr-defined]


def _resample_and_rms() -> None:
    """librosa 0.10 takes the arguments of ``resample`` and ``feature.rms`` by name only.

    It also continues a signal by zeros for its RMS, where it was mirrored: at a signal's ends the values
    fell.
    """
    import librosa

    def resample(y: np.ndarray, orig_sr: float, target_sr: float, **kwargs: Any) -> np.ndarray:
        return librosa.resample(y, orig_sr=orig_sr, target_sr=target_sr, **kwargs)

    def rms(y: np.ndarray, **kwargs: Any) -> np.ndarray:
        return librosa.feature.rms(y=y, **{"pad_mode": "reflect", **kwargs})

    audio_signal = importlib.import_module("nussl.core.audio_signal")
    feature = module_view(librosa.feature, rms=rms)
    audio_signal.librosa = module_view(librosa, resample=resample, feature=feature)  # type: ignore[attr-defined]


def _mel_projection() -> None:
    """librosa 0.10 takes the arguments of ``filters.mel`` by name only."""
    import librosa

    def mel(sr: float, n_fft: int, n_mels: int) -> np.ndarray:
        return librosa.filters.mel(sr=sr, n_fft=n_fft, n_mels=n_mels)

    blocks = importlib.import_module("nussl.ml.networks.modules.blocks")
    filters = module_view(librosa.filters, mel=mel)
    blocks.librosa = module_view(librosa, filters=filters)  # type: ignore[attr-defined]


def _hanning() -> None:
    """SciPy 1.9 no longer knows a window 'hanning', which is OverlapAdd's default."""
    signal_class = importlib.import_module("nussl.core.audio_signal").AudioSignal
    get_window = signal_class.get_window

    def get_window_by_either_name(window_type: str, window_length: int) -> np.ndarray:
        return get_window("hann" if window_type == "hanning" else window_type, window_length)

    signal_class.get_window = staticmethod(functools.wraps(get_window)(get_window_by_either_name))


def _clusterers() -> None:
    """scikit-learn changed how it begins: NMF by NNDSVDa since 1.1, k-means from one start since 1.4.

    nussl gives neither, and so timbre clustering and others found other sources. NMF begins by NNDSVD again,
    where there are no more components than bins or frames, and k-means from ten starts, of which it keeps the
    best, or from three if it works in batches.
    """
    ml = importlib.import_module("nussl.ml")

    class NMF(ml.NMF):  # type: ignore[name-defined]
        init: Any

        def fit_transform(self, X: np.ndarray, *args: Any, **kwargs: Any) -> np.ndarray:
            given = self.init
            if given is None and isinstance(self.n_components, int) and self.n_components <= min(X.shape):
                self.init = "nndsvd"
            try:
                return super().fit_transform(X, *args, **kwargs)
            finally:
                self.init = given

    NMF.__module__, NMF.__qualname__, NMF.__doc__ = ml.__name__, "NMF", ml.NMF.__doc__
    ml.NMF = NMF  # type: ignore[attr-defined]
    ml.cluster.KMeans = ml.confidence.KMeans = _with_defaults(ml.cluster, "KMeans", n_init=10)
    ml.cluster.MiniBatchKMeans = _with_defaults(ml.cluster, "MiniBatchKMeans", n_init=3)
    _mixtures(ml)


def _mixtures(ml: Any) -> None:
    """scikit-learn 1.9 counts a mixture's log likelihoods in the type of the features: booleans, if they are.

    So masks of Gaussian mixtures were near one half everywhere, for features that are masks themselves.
    """

    class GaussianMixture(ml.cluster.GaussianMixture):
        def predict(self, X: np.ndarray) -> np.ndarray:
            return super().predict(_floating(X))

        def predict_proba(self, X: np.ndarray) -> np.ndarray:
            return super().predict_proba(_floating(X))

        def score_samples(self, X: np.ndarray) -> np.ndarray:
            return super().score_samples(_floating(X))

    GaussianMixture.__module__, GaussianMixture.__qualname__ = ml.cluster.__name__, "GaussianMixture"
    GaussianMixture.__doc__ = ml.cluster.GaussianMixture.__doc__
    ml.cluster.GaussianMixture = ml.confidence.GaussianMixture = GaussianMixture


def _floating(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    return values if np.issubdtype(values.dtype, np.floating) else values.astype(float)


def _with_defaults(module: ModuleType, name: str, **defaults: Any) -> type:
    """A class whose arguments have other defaults, in the place of one of that name in a module."""
    base = getattr(module, name)
    original = base.__init__
    changed = FunctionType(
        original.__code__, original.__globals__, "__init__", original.__defaults__, original.__closure__
    )
    changed.__kwdefaults__ = {**original.__kwdefaults__, **defaults}
    return type(name, (base,), {"__init__": changed, "__module__": module.__name__, "__doc__": base.__doc__})


def _validation_tracks() -> None:
    """musdb 0.4 reads a corpus's own ``setup.yaml`` only if it is named, and nussl's ``MUSDB18`` can't name
    it.

    Without it no corpus but MUSDB18 itself has tracks for validation, and ``split="valid"`` was empty.
    """
    hooks = importlib.import_module("nussl.datasets.hooks")
    musdb = hooks.musdb
    if musdb is None:  # nussl warns that it has no ffmpeg
        return

    def database(root: str, **arguments: Any) -> Any:
        if os.path.isfile(os.path.join(os.path.expanduser(root), SETUP_FILE)):
            arguments["setup_file"] = SETUP_FILE
        return musdb.DB(root=root, **arguments)

    hooks.musdb = module_view(musdb, DB=database)  # type: ignore[attr-defined]


def _scaper() -> None:
    """NumPy 2.0 removed ``np.Inf``, which scaper names whenever it mixes; so do nussl's examples by it."""
    if importlib.util.find_spec("scaper") is not None:
        with contextlib.suppress(ImportError):  # of what scaper needs and nussl does not
            import_scaper()


def _museval() -> None:
    """NumPy 2.0 removed ``np.linalg.linalg``, which museval, and so BSSEvalV4, names at a singular system."""
    with contextlib.suppress(ImportError):  # it is not installed
        import_museval()


def _report_card() -> None:
    """pandas 2.0 refuses to average the text columns 'source' and 'file'."""
    report_card = importlib.import_module("nussl.evaluation.report_card")

    def numbers_only(summary: Callable) -> Callable:
        @functools.wraps(summary)
        def summarise(df: Any, decs: int = 2) -> Any:
            return summary(df.drop(columns=["source", "file"], errors="ignore"), decs=decs)

        return summarise

    for name in ("_get_mean_and_std", "_get_medians"):
        setattr(report_card, name, numbers_only(getattr(report_card, name)))


def _scores_as_floats() -> None:
    """BSSEvalScale's scores are numpy numbers; ``json.dump`` refuses them if the audio is float32."""
    scale_class = importlib.import_module("nussl.evaluation.bss_eval").BSSEvalScale
    evaluate_helper = scale_class.evaluate_helper

    @functools.wraps(evaluate_helper)
    def evaluate(self: Any, *args: Any, **kwargs: Any) -> list[dict[str, list[float]]]:
        scores = evaluate_helper(self, *args, **kwargs)
        return [{key: [float(value) for value in values] for key, values in s.items()} for s in scores]

    scale_class.evaluate_helper = evaluate


def _checkpoints() -> None:
    """torch 2.6 made ``torch.load`` weights-only, and nussl's checkpoints name classes; allow just those."""
    loader_class = importlib.import_module("nussl.core.migration").SafeModelLoader

    def load(self: Any, model_path: str, device: str = "cpu", expected_eval: str = "BssEvalScale") -> dict:
        """Load a checkpoint and run nothing in it; what follows the check are nussl's own steps."""
        model = load_weights_only(model_path, safe_globals())
        if not isinstance(model, dict) or not {"state_dict", "metadata"} <= model.keys():
            raise ValueError(f"{model_path} is no nussl checkpoint: it has no 'state_dict' and 'metadata'")
        try:
            model["state_dict"] = {key: value.to(device) for key, value in model["state_dict"].items()}
            metadata = self._get_moved(model["metadata"], model, model_path)
            for key, module in metadata.get("config", {}).get("modules", {}).items():
                if module.get("class") == "UNet":  # nussl builds it before it looks at the weights
                    size = os.path.getsize(model_path)
                    check_size(module["args"], model["state_dict"], f"layers.{key}.", size)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"{model_path} is no checkpoint of its own network: {first_line(error)}"
            ) from error
        self.eval = expected_eval
        metadata = self._validate_and_populate(metadata)
        metadata["config"] = json.dumps(metadata["config"])
        return {**model, "metadata": metadata}

    loader_class.load = load


def _save() -> None:
    """nussl saves in place, so that a kill leaves half a file, and under the rate of the dataset's files.

    Where transforms lead to another rate, a model that was saved so would get its audio by way of a rate that
    it has nothing to do with; or by way of 'UNAVAILABLE', if the dataset has not met a file yet.
    """
    model_class = importlib.import_module("nussl.ml.networks.separation_model").SeparationModel
    plain_save = model_class.save

    @functools.wraps(plain_save)
    def save(
        self: Any,
        location: str,
        metadata: dict[str, Any] | None = None,
        train_data: Any = None,
        val_data: Any = None,
        trainer: Any = None,
    ) -> str:
        described = None
        if train_data is not None:
            if train_data.sample_rate is None and getattr(train_data, "items", None):
                train_data.process_item(train_data.items[0])
            transform = train_data.metadata.get("transforms")
            steps = getattr(transform, "transforms", [transform])
            rates = [step.sample_rate for step in steps if hasattr(step, "sample_rate")]
            described = SimpleNamespace(
                stft_params=train_data.stft_params,
                sample_rate=[train_data.sample_rate, *rates][-1],
                num_channels=train_data.num_channels,
                metadata=train_data.metadata,
            )
        content = io.BytesIO()  # torch does not say why it can't write to a file
        plain_save(self, content, metadata, described, val_data, trainer)
        write_bytes(location, content.getbuffer())
        return location

    model_class.save = save


def _cache() -> None:
    """zarr 3 has no ``ThreadSynchronizer`` and no object codec; items go into files of their own."""
    from svs_unet_plugin.nussl.compat.cache import Folder

    cache_class = importlib.import_module("nussl.datasets.transforms").Cache

    def _open_cache(self: Any, location: str) -> None:
        self.cache = Folder(location, self.cache_size, writable=self.overwrite)

    def __repr__(self: Any) -> str:
        return f"Cache(location = {self.location}, overwrite = {self.overwrite})"

    cache_class._open_cache = _open_cache
    cache_class.__repr__ = __repr__


def _pictures() -> None:
    """librosa 0.10 removed ``display.waveplot`` and changed private functions that nussl calls."""
    from svs_unet_plugin.nussl.compat import pictures

    utils = importlib.import_module("nussl.core.utils")
    for name in ("visualize_waveform", "visualize_spectrogram", "visualize_sources_as_masks"):
        setattr(utils, name, getattr(pictures, name))


def _interact() -> None:
    """gradio 4 removed ``gradio.inputs``."""
    from svs_unet_plugin.nussl.compat.interact import interact

    importlib.import_module("nussl.separation.base.separation_base").SeparationBase.interact = interact


def _other_processes() -> None:
    """Python 3.14 starts DataLoader's workers by a fork server; they would import nussl as it is."""
    bring_repairs_along("nussl", import_nussl)


#: Every repair, in the order in which it is made. None depends on another.
REPAIRS: tuple[Callable[[], None], ...] = (
    _duet,
    _resample_and_rms,
    _mel_projection,
    _hanning,
    _clusterers,
    _validation_tracks,
    _scaper,
    _museval,
    _report_card,
    _scores_as_floats,
    _checkpoints,
    _save,
    _cache,
    _pictures,
    _interact,
    _other_processes,
)
