"""The U-Net mask estimator of Jansson et al. and nothing else: magnitudes in, masks out.

A. Jansson, E. Humphrey, N. Montecchio, R. Bittner, A. Kumar, T. Weyde: "Singing voice separation
with deep U-Net convolutional networks", ISMIR 2017.
"""

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from svs_unet_plugin.files import check_sources


class UNet(nn.Module):
    """Estimates one mask a source from the magnitude spectrogram of a mixture.

    Six 5×5 convolutions of stride 2 halve both axes and double the width (16 … 512 channels), each with
    batch normalisation and leaky ReLU of slope 0.2. Six 5×5 transposed convolutions of stride 2 go back
    up, each with batch normalisation and ReLU, the first three with 50 % dropout; all but the first also
    take the encoder's output of the same size. The last has neither, but a sigmoid.

    Where published reimplementations differ, this is what this one does:

    - *Padding*: two on each side, and one more on the output of the transposed convolutions, so that a
      layer halves and doubles sizes exactly. The Keras versions pad one before and two after, which
      shifts every layer by half a bin.
    - *Order*: convolution, normalisation, activation, dropout, as in section 3.3 of the paper. The skip
      connections carry activated values. Convolutions before a normalisation have no bias, which the
      normalisation would cancel.
    - *Dropout*: single values, the paper's plain word, not whole channels.
    - *DC*: the paper's patches have 512 bins and its STFT 513. The lowest is left out, because it holds
      no music, and gets the mask of the bin above it.
    - *Frames*: any number, not only 128, continued to a multiple of 64 by their mirror image and cut again.
      Before silence, a network that was trained without any opens its masks to everything.
    - *Stereo*, which the paper leaves open: each channel alone, or two that are seen together, as the
      magnitudes of left, right, mid and side (see `stereo_magnitudes`), with a mask for either. What is
      in the middle, as voices are, shows in the last two.

    Args:
        in_channels: channels of the mixture that the network sees together, 1 or 2.
        sources: a name for each mask, in order, such as ``("vocals",)``; stems are called so, and so no name
            has a ``/`` in it.
        channels: channels after the first layer, ≥ 2; each further layer doubles them.
        bottleneck: ``None``, or ``"blstm"``: a bidirectional LSTM over time between encoder and decoder,
            for context beyond the frames that the convolutions `reach`.
        max_channels: ``None``, or the most that a layer has, ≥ ``channels``.
        residual_blocks: how many `ResidualBlock` follow each of the four outer layers on both sides, ≥ 0;
            the paper has none.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> unet = UNet().eval()
        >>> unet(torch.rand(1, 1, 513, 100)).shape
        torch.Size([1, 1, 513, 100])
        >>> round(sum(p.numel() for p in unet.parameters()) / 1e6, 1)
        9.8
    """

    depth: Final[int] = 6
    #: The layers, counted from outside, that residual blocks follow.
    refined: Final[int] = 4
    #: 2 ** depth: frames (and bins) that one column (and row) of the deepest layer stands for.
    stride: Final[int] = 64

    def __init__(
        self,
        in_channels: int = 1,
        sources: Sequence[str] = ("vocals",),
        channels: int = 16,
        bottleneck: str | None = None,
        max_channels: int | None = None,
        residual_blocks: int = 0,
    ) -> None:
        super().__init__()
        if in_channels not in (1, 2):
            raise ValueError(f"in_channels must be 1 or 2, got {in_channels}")
        check_sources(sources)
        if channels < 2 or channels % 2:
            raise ValueError(f"channels must be an even number from 2 up, got {channels}")
        if bottleneck not in (None, "blstm"):
            raise ValueError(f"bottleneck must be None or 'blstm', got {bottleneck!r}")
        if max_channels is not None and max_channels < channels:
            raise ValueError(
                f"max_channels must be None or at least channels ({channels}), got {max_channels}"
            )
        if bottleneck is not None and max_channels is not None and max_channels % 2:
            raise ValueError(f"max_channels must be even with a bottleneck, got {max_channels}")
        if residual_blocks < 0:
            raise ValueError(f"residual_blocks must be at least 0, got {residual_blocks}")
        self.in_channels = in_channels
        #: Magnitudes that the network takes: one, or left, right, mid and side.
        self.inputs = 1 if in_channels == 1 else 4
        self.sources = tuple(sources)
        self.channels = channels
        self.bottleneck_type = bottleneck
        self.max_channels = max_channels
        self.residual_blocks = residual_blocks
        #: No convolution makes a mask depend on frames further away than this: six layers of five taps with
        #: strides 1, 2 … 32 reach 2·(1 + 2 + … + 32) frames on the way down, and as many on the way up; a
        #: residual block reaches 2 frames of its layer's grid, on which they are 2, 4, 8 and 16 apart.
        self.reach = 2 * 2 * (2**self.depth - 1) + residual_blocks * 2 * 2 * (2 ** (self.refined + 1) - 2)

        def blocks(layer: int, width: int) -> list[nn.Module]:
            """What follows a layer, counted from outside."""
            return [ResidualBlock(width) for _ in range(residual_blocks if layer < self.refined else 0)]

        widths = [channels * 2**layer for layer in range(self.depth)]
        if max_channels is not None:
            widths = [min(width, max_channels) for width in widths]
        self.encoder = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs, outputs, kernel_size=5, stride=2, padding=2, bias=False),
                nn.BatchNorm2d(outputs),
                nn.LeakyReLU(0.2),
                *blocks(layer, outputs),
            )
            for layer, (inputs, outputs) in enumerate(zip([self.inputs, *widths[:-1]], widths, strict=True))
        )
        self.bottleneck = BLSTM(widths[-1]) if bottleneck == "blstm" else nn.Identity()
        self.decoder = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(
                    inputs, outputs, kernel_size=5, stride=2, padding=2, output_padding=1, bias=False
                ),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
                nn.Dropout(0.5 if layer < 3 else 0.0),
                *blocks(self.depth - 2 - layer, outputs),
            )
            # From the second layer on, the inputs are the layer below and the skip connection beside it.
            for layer, (inputs, outputs) in enumerate(
                zip([widths[-1], *(2 * width for width in widths[-2:0:-1])], widths[-2::-1], strict=True)
            )
        )
        self.decoder.append(OutputLayer(2 * channels, len(self.sources) * in_channels))

    @torch.jit.unused
    def arguments(self) -> dict[str, Any]:
        """What makes this network again, ``UNet(**arguments)``, as plain text and numbers."""
        return {
            "in_channels": self.in_channels,
            "sources": list(self.sources),
            "channels": self.channels,
            "bottleneck": self.bottleneck_type,
            "max_channels": self.max_channels,
            "residual_blocks": self.residual_blocks,
        }

    def forward(self, magnitude: Tensor) -> Tensor:
        """Masks for a magnitude spectrogram.

        Args:
            magnitude: ``(batch, inputs, bins, frames)``, ≥ 0, the song's largest value scaled to 1.
                Any number of bins and frames from 1 up; with one more bin than a multiple of 64
                (513, say), the first is taken for DC.

        Returns:
            ``(batch, sources * in_channels, bins, frames)``, each in [0, 1]: the first source's channels,
            then the next one's.
        """
        features = self.encode(magnitude)
        features[-1] = self.bottleneck(features[-1])
        return self.decode(features, magnitude.shape[-2], magnitude.shape[-1])

    def encode(self, magnitude: Tensor) -> list[Tensor]:
        """The outputs of the six encoder layers, ``(batch, 16 · 2ⁿ, bins / 2ⁿ⁺¹, frames / 2ⁿ⁺¹)``."""
        x = magnitude[..., self.dc_bins(magnitude.shape[-2]) :, :]
        x = F.pad(x, (0, 0, 0, -x.shape[-2] % self.stride))
        x = _mirrored(x, -x.shape[-1] % self.stride)
        features: list[Tensor] = []
        for layer in self.encoder:
            x = layer(x)
            features.append(x)
        return features

    def decode(self, features: list[Tensor], bins: int, frames: int) -> Tensor:
        """The masks ``(batch, sources * in_channels, bins, frames)`` for what `encode` returned."""
        x = features[-1]
        for i, layer in enumerate(self.decoder):
            if i > 0:
                x = torch.cat([x, features[self.depth - 1 - i]], dim=1)
            x = layer(x)
        dc = self.dc_bins(bins)
        mask = torch.sigmoid(x)[..., : bins - dc, :frames]
        return torch.cat([mask[..., :dc, :], mask], dim=-2)

    def dc_bins(self, bins: int) -> int:
        """How many of the lowest bins are DC: 1 for an STFT whose other bins fill the network, else 0."""
        return 1 if bins > 1 and bins % self.stride == 1 else 0


def as_stereo(network: UNet) -> UNet:
    """A network of two channels, to be trained further, that begins as one of a single channel ends.

    It applies the masks of the mid channel to both, since what its first layer does with the other three
    magnitudes is zero.

    Raises:
        ValueError: if the network takes two channels already.
    """
    if network.in_channels != 1:
        raise ValueError("the network takes two channels already")
    stereo = UNet(**{**network.arguments(), "in_channels": 2})
    weights = network.state_dict()
    first, last, bias = "encoder.0.0.weight", "decoder.5.weight", "decoder.5.bias"
    weights[first] = F.pad(weights[first], (0, 0, 0, 0, 2, 1))
    weights[last] = weights[last].repeat_interleave(2, dim=1)
    weights[bias] = weights[bias].repeat_interleave(2)
    stereo.load_state_dict(weights)
    return stereo.train(network.training)


class ResidualBlock(nn.Module):
    """Two normalised 3×3 convolutions, added to what goes in; the width stays.

    K. He, X. Zhang, S. Ren, J. Sun: "Deep residual learning for image recognition", CVPR 2016, figure 2.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.layers(x))


class OutputLayer(nn.ConvTranspose2d):
    """A 5×5 transposed convolution of stride 2, to a width for which such a one is slow on a CPU.

    Computed as the 3×3 convolution that makes the four values of each 2×2 block, which is the same (W. Shi et
    al.: "Is the deconvolution layer the same as a convolutional layer?", 2016).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel_size=5, stride=2, padding=2, output_padding=1)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        # A row (or column) 2m + p of the result takes row m - 1 + j by the tap 4 + p - 2j, if there is one.
        taps = F.pad(self.weight, (0, 1, 0, 1)).unflatten(3, (3, 2)).unflatten(2, (3, 2)).flip(2, 4)
        kernel = taps.permute(1, 3, 5, 0, 2, 4).reshape(4 * self.out_channels, self.in_channels, 3, 3)
        bias = self.bias
        assert bias is not None  # said for TorchScript
        return F.pixel_shuffle(F.conv2d(x, kernel, bias.repeat_interleave(4), padding=1), 2)


class BLSTM(nn.Module):
    """A bidirectional LSTM over the last axis of ``(batch, channels, rows, steps)``.

    Each row of bins is a sequence of its own, so that the layer fits any number of bins.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, channels // 2, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, rows, steps = x.shape
        sequences = x.permute(0, 2, 3, 1).reshape(batch * rows, steps, channels)
        output, _ = self.lstm(sequences)
        return output.reshape(batch, rows, steps, channels).permute(0, 3, 1, 2)


def _mirrored(x: Tensor, more: int) -> Tensor:
    """A sequence along the last axis that goes back from its end, and forth again, for so many steps more."""
    length = x.shape[-1]
    # A single step has the period 1, here without a condition, which a trace would not keep.
    index = torch.arange(length, length + more, device=x.device) % (2 * length - 2 + 1 // length)
    return torch.cat([x, x.index_select(-1, torch.minimum(index, 2 * length - 2 - index))], dim=-1)
