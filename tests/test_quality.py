"""The bundled weights separate as well as their card says, and nothing on the way has changed."""

import re

import numpy as np
import pytest
import soxr

from benchmarks.quality import RATE, SETS, SOURCES, row, songs
from svs_unet_plugin import Separator, weights
from svs_unet_plugin.evaluation.metrics import sdr

CARD = (weights.PRETRAINED / "README.md").read_text(encoding="utf-8")
TOLERANCE = 0.05
"""dB: with other resampling (cubic interpolation in the place of soxr's HQ) "Falcon 69" loses 0.34."""


def values(line: str) -> list[float]:
    return [float(number) for number in re.findall(r"\| (-?\d+\.\d+) ?(?=\|)", line)]


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("weights", weights.bundled())
def test_scores_are_those_of_the_card(name: str, weights: str) -> None:
    """By three programs: our own plain ratio, museval and mir_eval."""
    found = row(name, weights)
    (line,) = [line for line in CARD.splitlines() if line.startswith(found.partition(" | ")[0] + " |")]
    assert len(values(line)) == 6
    np.testing.assert_allclose(values(found), values(line), atol=TOLERANCE)


def test_the_two_tables_of_the_card_agree() -> None:
    (first,) = [line for line in CARD.splitlines() if line.startswith('| "Falcon 69"')]
    plain = [values(line)[0] for line in CARD.splitlines() if line.startswith("| Falcon 69: ")]
    assert plain == values(first) and len(plain) == 4


def test_a_changed_resampler_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = soxr.ResampleStream

    def changed(*arguments: object, **options: object) -> soxr.ResampleStream:
        return stream(*arguments, **{**options, "quality": "QQ"})

    monkeypatch.setattr(soxr, "ResampleStream", changed)
    ((mixture, song),) = songs("Falcon 69")
    estimates = Separator("vocals", "cpu").separate(mixture, RATE)
    found = sdr(*(np.stack([those[source] for source in SOURCES]) for those in (song, estimates)))
    (line,) = [line for line in CARD.splitlines() if line.startswith("| Falcon 69: `vocals`")]
    assert (np.abs(found - np.array(values(line))[[0, 3]]) > TOLERANCE).all()
