from pathlib import Path

import numpy as np
import pytest
import torch

from svs_unet_plugin import Separator

ROOT = str(Path(__file__).parents[1])


def test_torch_hub_loads_a_separator(checkpoint_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-1, 1, (1, 9000)).astype(np.float32)
    for name, arguments, weights in (
        ("vocals", (), "vocals"),
        ("small", (), "small"),
        ("free", (), "free"),
        ("separator", (str(checkpoint_path),), checkpoint_path),
    ):
        loaded = torch.hub.load(ROOT, name, *arguments, source="local", device="cpu")
        expected = Separator(weights, "cpu").separate(noise, 22_050)
        np.testing.assert_array_equal(loaded.separate(noise, 22_050)["vocals"], expected["vocals"])
    with pytest.raises(ValueError, match="views must lie from 1 to 8"):
        torch.hub.load(ROOT, "vocals", source="local", views=9)
