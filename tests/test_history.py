from pathlib import Path

import pytest

from svs_unet_plugin.training.history import Losses, plot_losses, read_losses, write_losses


def test_losses_come_back(tmp_path: Path) -> None:
    losses = Losses((0.1 + 0.2, 1e-7), (1 / 3, 2.0))
    write_losses(tmp_path / "new" / "losses.csv", losses)
    assert (tmp_path / "new" / "losses.csv").read_text().splitlines()[0] == "epoch,train,validation"
    assert read_losses(tmp_path / "new" / "losses.csv") == losses
    assert read_losses(tmp_path / "nothing.csv") is None


def test_what_is_no_table_of_losses_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "losses.csv"
    for text in ("epoch,train\n1,0.5\n", "epoch,train,validation\n1,a,b\n"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"losses\.csv is no table of losses with the columns"):
            read_losses(path)


@pytest.mark.parametrize("values", [(0.5, 0.25), (-3.0, -6.0)])  # L1, and dB, which have no logarithm
def test_the_picture_is_a_picture(tmp_path: Path, values: tuple[float, float]) -> None:
    plot_losses(tmp_path / "loss.png", Losses(values, values), "snr")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
