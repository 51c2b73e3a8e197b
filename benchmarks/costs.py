"""What separation costs by width, hop and so on, and how near it comes to the machine's limit."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any, cast

import numpy as np
import torch
from peers import Separate, plugin, random_unet
from timing import RATE, Seconds, Setting, Work, digits, noise, spread, table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from svs_unet_plugin import STFT, Separator, UNet
from svs_unet_plugin.engines import installed
from svs_unet_plugin.engines.torch_engine import TorchEngine
from svs_unet_plugin.threads import limited_threads

FRAMES = 2048
"""That the network is given when it is timed by itself: as many as `Separator` takes at a time."""

BATCHES = (1, 2, 4, 8)
PRODUCT = 2048
"""Rows and columns of the matrices that are multiplied for the machine's limit."""

FAVOURABLE = 256, 64
"""Channels, and rows and columns, of the convolution for the machine's limit."""


def changes(setting: Setting) -> str:
    """What one change costs: of the network, the transform, or how it is run."""
    audio = noise(setting.seconds)
    works = {name: partial(separate, audio) for name, separate in _changed(setting).items()}
    taken = setting.turns(works)
    base = next(iter(taken.values()))
    rows = [_row(name, seconds, setting, base) for name, seconds in taken.items()]
    columns = ["changed", "seconds", "times real time", "÷ unchanged"]
    what = f"{digits(setting.seconds)} s of stereo at 44.1 kHz, {setting.rounds} turns each, by torch."
    return f"{what}\n\n{table(columns, rows)}"


def _row(name: str, seconds: Seconds, setting: Setting, base: Seconds) -> list[str]:
    return [
        name,
        spread(seconds),
        digits(setting.seconds / median(seconds)),
        digits(median(seconds) / median(base)),
    ]


def _changed(setting: Setting) -> dict[str, Separate]:
    def made(
        hop: int = STFT.hop_length, views: int = 1, chunk_frames: int = FRAMES, **network: Any
    ) -> Separate:
        stft, unet = STFT(hop_length=hop), random_unet(**network)
        return plugin(Separator(unet, setting.device, stft=stft, views=views, chunk_frames=chunk_frames))

    found = {
        f"nothing: 16 channels, hop 768, {FRAMES} frames at a time": made(),
        "8 channels": made(channels=8),
        "32 channels": made(channels=32),
        "at most 256 channels in a layer": made(max_channels=256),
        "a residual block after each outer layer": made(residual_blocks=1),
        "a recurrent bottleneck": made(bottleneck="blstm"),
        "hop 512": made(hop=512),
        "hop 256": made(hop=256),
        "3 views": made(views=3),
        f"{FRAMES // 4} frames at a time": made(chunk_frames=FRAMES // 4),
        f"{FRAMES * 4} frames at a time": made(chunk_frames=FRAMES * 4),
    }
    if setting.device.type == "cpu" and setting.by_the_wall:
        for threads in sorted({1, os.cpu_count() or 1} - {setting.threads}):
            found[f"{threads} thread(s)"] = _by_threads(made(), threads)
    return found


def _by_threads(separate: Separate, threads: int) -> Separate:
    def separated(audio: Tensor) -> object:
        with limited_threads(threads):
            return separate(audio)

    return separated


def batches(setting: Setting) -> str:
    """What an item costs the network alone, by how many are given at once."""
    network = _on(random_unet(), setting)
    taken = setting.turns(
        {f"{size}": _inference(partial(network, _magnitude(setting, size, FRAMES // 4))) for size in BATCHES}
    )
    rows = [[name, digits(1000 * median(seconds) / int(name))] for name, seconds in taken.items()]
    what = f"The paper's U-Net alone, items of {FRAMES // 4} frames, {setting.rounds} turns each."
    return f"{what}\n\n{table(['items at once', 'ms an item'], rows)}"


def engines(setting: Setting) -> str:
    """What computes the network of bundled weights on a CPU, and how far its masks are from torch's."""
    audio, rows = noise(setting.seconds), []
    for weights in ("vocals", "small"):
        separators = {name: Separator(weights, "cpu", engine=name) for name in installed()}
        inputs = separators["torch"].network.inputs
        magnitude = torch.rand(1, inputs, 513, FRAMES).numpy() ** 8  # mostly small, as those of music
        masks = {name: separator.masker.engine.masks(magnitude) for name, separator in separators.items()}

        def begin(name: str, weights: str = weights, magnitude: np.ndarray = magnitude) -> None:
            separator = Separator(weights, "cpu", engine=name)
            separator.masker.engine.masks(magnitude[..., :64])

        taken = setting.turns({name: partial(one.separate, audio, RATE) for name, one in separators.items()})
        begun = setting.turns({name: partial(begin, name) for name in separators})
        for name, seconds in taken.items():
            row = _row(f"`{weights}`, {name}", seconds, setting, taken["torch"])
            difference = np.abs(masks[name] - masks["torch"]).max()
            rows.append([*row, spread(begun[name]), f"{float(difference):.0e}"])
    columns = ["weights, engine", "seconds", "times real time", "÷ torch", "to begin", "masks differ by"]
    what = f"{digits(setting.seconds)} s of stereo at 44.1 kHz, {setting.rounds} turns each."
    return f"{what}\n\n{table(columns, rows)}"


def limit(setting: Setting) -> str:
    """Multiply-adds a second: of what suits the machine best, convolutions, networks, and separations."""
    matrices = torch.rand(2, PRODUCT, PRODUCT, device=setting.device)
    channels, size = FAVOURABLE
    image = torch.rand(1, channels, size, size, device=setting.device)
    image = image.to(memory_format=torch.channels_last)
    # With 5×5 taps nothing is saved by Winograd's method, as it may be with 3×3.
    convolution = nn.Conv2d(channels, channels, 5, padding=2, bias=False).to(setting.device)
    convolution = convolution.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    works: dict[str, Work] = {
        "a product of two matrices": _inference(lambda: matrices[0] @ matrices[1]),
        "a large convolution": _inference(partial(convolution, image)),
    }
    favourable = len(works)
    audio = noise(setting.seconds)
    for name, separator in {
        "the paper's U-Net": Separator(random_unet(), setting.device, stft=STFT()),
        "bundled `vocals`": Separator(device=setting.device),
    }.items():
        network = cast(TorchEngine, separator.masker.engine).folded
        convolutions = _convolutions(network, _magnitude(setting, inputs=network.inputs))
        works[f"{name}: its convolutions, each alone"] = _inference(partial(_run, convolutions))
        works[f"{name}: the network"] = _inference(
            partial(network, _magnitude(setting, inputs=network.inputs))
        )
        works[f"{name}: a separation"] = partial(separator.separate, audio, RATE)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # as `Separator` has it
        counted = {name: _multiply_adds(work) for name, work in works.items()}
        taken = setting.turns(works)
    rates = {name: counted[name] / median(seconds) for name, seconds in taken.items()}
    most = max([*rates.values()][:favourable])
    rows = [
        [
            name,
            digits(counted[name] / 1e9),
            spread(taken[name]),
            digits(rate / 1e9),
            f"{100 * rate / most:.0f} %",
        ]
        for name, rate in rates.items()
    ]
    what = (
        f"Matrices of {PRODUCT} × {PRODUCT}; a convolution of {channels} channels to as many, 5 × 5 taps, "
        f"{size} × {size} points; networks of {FRAMES} frames; separations of "
        f"{digits(setting.seconds)} s of stereo at 44.1 kHz; {setting.rounds} turns each."
    )
    columns = ["what", "10⁹ multiply-adds", "seconds", "10⁹ a second", "of the limit"]
    return f"{what}\n\n{table(columns, rows)}"


def _convolutions(network: UNet, magnitude: Tensor) -> list[tuple[nn.Module, Tensor]]:
    """Each convolution, and what it is given."""
    found: list[tuple[nn.Module, Tensor]] = []
    layers = [layer for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))]
    hooks = [
        layer.register_forward_pre_hook(lambda layer, x: found.append((layer, x[0]))) for layer in layers
    ]
    _inference(partial(network, magnitude))()
    for hook in hooks:
        hook.remove()
    return found


def _run(layers: list[tuple[nn.Module, Tensor]]) -> None:
    for layer, x in layers:
        layer(x)


def _multiply_adds(work: Work) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() // 2


def _inference(work: Callable[[], object]) -> Work:
    return torch.inference_mode()(work)


def _on(network: UNet, setting: Setting) -> nn.Module:
    return network.to(setting.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _magnitude(setting: Setting, batch: int = 1, frames: int = FRAMES, inputs: int = 1) -> Tensor:
    return torch.rand(batch, inputs, 513, frames, device=setting.device)
