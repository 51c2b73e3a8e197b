import copy
from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import conv2d, conv_transpose2d

from svs_unet_plugin import UNet
from svs_unet_plugin.stft import stereo_magnitudes
from svs_unet_plugin.unet import OutputLayer, ResidualBlock, as_stereo


def test_parameter_count() -> None:
    # 5·5 weights between every pair of channels, down 1-16-32-64-128-256-512 and up again with the skip
    # connections' channels added: 9.81 million, the "9.8 million" that is quoted for this network.
    down = sum(25 * a * b for a, b in [(1, 16), (16, 32), (32, 64), (64, 128), (128, 256), (256, 512)])
    up = sum(25 * a * b for a, b in [(512, 256), (512, 128), (256, 64), (128, 32), (64, 16), (32, 1)])
    norms = 2 * (16 + 32 + 64 + 128 + 256 + 512 + 256 + 128 + 64 + 32 + 16)
    assert sum(p.numel() for p in UNet().parameters()) == down + up + norms + 1 == 9_821_809


@pytest.mark.parametrize("bins, frames", [(513, 128), (512, 128), (1, 1), (65, 2), (500, 77), (129, 64)])
@pytest.mark.parametrize("in_channels, sources", [(1, ("vocals",)), (2, ("drums", "vocals", "bass"))])
def test_shape_and_range(bins: int, frames: int, in_channels: int, sources: tuple[str, ...]) -> None:
    network = UNet(in_channels, sources, channels=2).eval()
    mask = network(torch.rand(3, network.inputs, bins, frames))
    assert mask.shape == (3, len(sources) * in_channels, bins, frames)
    assert 0 <= mask.min() and mask.max() <= 1


EXTENSIONS = [{}, {"bottleneck": "blstm"}, {"max_channels": 8, "residual_blocks": 2}]
"""What the paper has, and what it has not."""


def test_extensions_change_the_size_as_documented() -> None:
    network = UNet(max_channels=256, residual_blocks=1)
    down = sum(25 * a * b for a, b in [(1, 16), (16, 32), (32, 64), (64, 128), (128, 256), (256, 256)])
    up = sum(25 * a * b for a, b in [(256, 256), (512, 128), (256, 64), (128, 32), (64, 16), (32, 1)])
    norms = 2 * (16 + 32 + 64 + 128 + 256 + 256 + 256 + 128 + 64 + 32 + 16)
    blocks = 2 * sum(2 * (9 * width * width + 2 * width) for width in (16, 32, 64, 128))
    assert sum(p.numel() for p in network.parameters()) == down + up + norms + blocks + 1
    assert UNet(**network.arguments()).load_state_dict(network.state_dict())


def test_a_network_of_one_channel_goes_on_with_two(make_network: Callable[..., UNet]) -> None:
    """It begins with the masks of the mid channel on both."""
    network = make_network(sources=("drums", "vocals"), residual_blocks=1)
    stereo = as_stereo(network)
    assert stereo.in_channels == 2 and not stereo.training
    spectrum = torch.randn(3, 2, 513, 70, dtype=torch.complex64) / 4
    masks = stereo(stereo_magnitudes(spectrum))
    expected = network(spectrum.mean(dim=1, keepdim=True).abs())
    assert expected.std() > 0.05
    torch.testing.assert_close(masks, expected.repeat_interleave(2, dim=1))
    with pytest.raises(ValueError, match="two channels already"):
        as_stereo(stereo)


def test_what_a_network_of_two_channels_sees() -> None:
    left, right = torch.randn(2, 513, 9, dtype=torch.complex64)
    expected = torch.stack([left, right, (left + right) / 2, (left - right) / 2]).abs()
    assert torch.equal(stereo_magnitudes(torch.stack([left, right])), expected)
    mono = stereo_magnitudes(left[None])
    assert torch.equal(mono, torch.stack([left.abs(), left.abs(), left.abs(), torch.zeros(513, 9)]))


def test_a_residual_block_adds_to_what_goes_in() -> None:
    torch.manual_seed(0)
    block = ResidualBlock(3).eval()
    x = torch.randn(1, 3, 5, 7)
    first, second = block.layers[0].weight, block.layers[3].weight
    inner = torch.relu(conv2d(x, first, padding=1) / (1 + 1e-5) ** 0.5)
    expected = torch.relu(x + conv2d(inner, second, padding=1) / (1 + 1e-5) ** 0.5)
    torch.testing.assert_close(block(x), expected)


def test_the_output_layer_is_a_transposed_convolution() -> None:
    torch.manual_seed(0)
    layer = OutputLayer(6, 3).double()
    x = torch.randn(2, 6, 5, 7, dtype=torch.float64)
    expected = conv_transpose2d(x, layer.weight, layer.bias, stride=2, padding=2, output_padding=1)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_every_parameter_gets_a_gradient(extension: dict) -> None:
    torch.manual_seed(0)
    network = UNet(channels=2, **extension)
    network(torch.rand(2, 1, 513, 130)).sum().backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without


@pytest.mark.parametrize(
    "frames, mirrored", [(1, [0] * 64), (3, [0, 1, 2, 1] * 16), (70, [*range(70), *range(68, 10, -1)])]
)
def test_frames_are_continued_by_their_mirror_image(frames: int, mirrored: list[int]) -> None:
    torch.manual_seed(0)
    network = UNet(channels=2).eval()
    magnitude = torch.rand(1, 1, 513, frames)
    assert len(mirrored) % 64 == 0
    assert torch.equal(network(magnitude), network(magnitude[..., mirrored])[..., :frames])


def test_dropout_and_statistics_only_while_training() -> None:
    torch.manual_seed(0)
    network = UNet(channels=4)
    magnitude = torch.rand(2, 1, 513, 64)
    assert not torch.equal(network(magnitude), network(magnitude))
    network.eval()
    before = copy.deepcopy(network.state_dict())
    assert torch.equal(network(magnitude), network(magnitude))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_dc_gets_the_mask_above_it_and_is_not_seen(network: UNet) -> None:
    magnitude = torch.rand(1, 1, 513, 100)
    mask = network(magnitude)
    assert torch.equal(mask[..., 0, :], mask[..., 1, :])
    assert torch.equal(mask[..., 1:, :], network(magnitude[..., 1:, :]))
    magnitude[..., 0, :] = 7
    assert torch.equal(mask, network(magnitude))


def literal_convolution(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A 5×5 convolution of stride 2 that halves both axes, one output at a time."""
    channels, height, width = x.shape
    padded = torch.zeros(channels, height + 4, width + 4, dtype=x.dtype)
    padded[:, 2:-2, 2:-2] = x
    y = torch.zeros(len(weight), height // 2, width // 2, dtype=x.dtype)
    for i in range(height // 2):
        for j in range(width // 2):
            y[:, i, j] = (weight * padded[:, 2 * i : 2 * i + 5, 2 * j : 2 * j + 5]).sum((1, 2, 3))
    return y


def literal_transposed_convolution(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Its transpose, which doubles both axes: each input adds its 5×5 patch to the output."""
    _, height, width = x.shape
    y = torch.zeros(weight.shape[1], 2 * height + 4, 2 * width + 4, dtype=x.dtype)
    for i in range(height):
        for j in range(width):
            y[:, 2 * i : 2 * i + 5, 2 * j : 2 * j + 5] += (weight * x[:, i, j, None, None, None]).sum(0)
    return y[:, 2:-2, 2:-2]


def test_equals_a_literal_reading_of_the_paper() -> None:
    torch.manual_seed(0)
    network = UNet(channels=2).double()
    with torch.no_grad():
        for parameter in network.parameters():  # nothing left at a default that could hide a step
            parameter.add_(0.1 * torch.randn_like(parameter))
    network.train()(torch.rand(4, 1, 128, 64, dtype=torch.float64))
    network.eval()
    state = network.state_dict()

    def normalised(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, var = (state[f"{name}.running_{kind}"][:, None, None] for kind in ("mean", "var"))
        scale, shift = (state[f"{name}.{kind}"][:, None, None] for kind in ("weight", "bias"))
        return (x - mean) / torch.sqrt(var + 1e-5) * scale + shift

    magnitude = torch.rand(1, 128, 64, dtype=torch.float64)
    x, outputs = magnitude, []
    for i in range(6):
        x = normalised(literal_convolution(x, state[f"encoder.{i}.0.weight"]), f"encoder.{i}.1")
        x = torch.where(x > 0, x, 0.2 * x)
        outputs.append(x)
    for i in range(5):
        if i > 0:
            x = torch.cat([x, outputs[5 - i]])
        x = normalised(
            literal_transposed_convolution(x, state[f"decoder.{i}.0.weight"]), f"decoder.{i}.1"
        ).clamp_min(0)
    x = literal_transposed_convolution(torch.cat([x, outputs[0]]), state["decoder.5.weight"])
    expected = 1 / (1 + torch.exp(-x - state["decoder.5.bias"]))
    # Double precision throughout: only the order of the sums differs.
    torch.testing.assert_close(network(magnitude[None])[0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("residual_blocks", [0, 1])
def test_no_frame_beyond_the_reach_matters(make_network: Callable[..., UNet], residual_blocks: int) -> None:
    # A change of one frame may move masks up to `reach` frames away and none further.
    network = make_network(residual_blocks=residual_blocks)
    assert network.reach == 252 + 120 * residual_blocks
    magnitude = torch.rand(1, 1, 513, 1280)
    changed = magnitude.clone()
    changed[..., 640] += 1
    with torch.inference_mode():
        moved = (network(magnitude) != network(changed)).any(dim=2).flatten().nonzero().flatten()
    assert 640 - network.reach <= moved.min() and moved.max() <= 640 + network.reach
    assert moved.max() - moved.min() > 64  # and it does see beyond one column of its grid


@pytest.mark.filterwarnings("ignore")  # traces are of one length, and say so
@pytest.mark.parametrize("extension", EXTENSIONS)
def test_torchscript_and_export(extension: dict) -> None:
    network = UNet(channels=2, **extension).eval()
    short, long = torch.rand(1, 1, 513, 70), torch.rand(1, 1, 513, 150)
    with torch.no_grad():
        for compiled in (torch.jit.script(network), torch.jit.trace(network, short)):
            torch.testing.assert_close(compiled(short), network(short))
        # Scripts take any length; traces and exports keep the one that they saw.
        torch.testing.assert_close(torch.jit.script(network)(long), network(long))
        exported = torch.export.export(network, (short,)).module()
        torch.testing.assert_close(exported(short), network(short))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"in_channels": 3}, "in_channels must be 1 or 2, got 3"),
        ({"sources": "vocals"}, "sources must be different names"),
        ({"sources": ()}, "sources must be different names"),
        *(
            ({"sources": ("vocals", name)}, "sources must be names that files can have")
            for name in ("../up", "/up", "a\\b", "..", "", "a\n", 1)
        ),
        ({"channels": 3}, "channels must be an even number"),
        ({"bottleneck": "lstm"}, "bottleneck must be None or 'blstm', got 'lstm'"),
        ({"bottleneck": "blstm", "max_channels": 17}, "max_channels must be even with a bottleneck, got 17"),
        ({"max_channels": 8}, r"max_channels must be None or at least channels \(16\), got 8"),
        ({"residual_blocks": -1}, "residual_blocks must be at least 0, got -1"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNet(**arguments)
