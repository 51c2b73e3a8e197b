import math

import pytest
import torch

from svs_unet_plugin.training.optimization import make_scheduler, uses_bfloat16
from svs_unet_plugin.training.settings import TrainSettings


@pytest.mark.parametrize(
    "change, words",
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": -2}, "batch_size must be at least 1, got -2"),
        ({"patience": 0}, "patience must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be more than 0, got 0"),
        ({"max_norm": math.inf}, "max_norm must be more than 0, got inf"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0, got -0.1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"schedule": "cosine"}, "schedule must be 'plateau' or 'one-cycle', got 'cosine'"),
        ({"loss": "mse"}, "loss must be 'l1' or 'snr', got 'mse'"),
    ],
)
def test_bad_settings(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TrainSettings(**change)


def test_what_may_change_when_a_run_is_resumed() -> None:
    assert TrainSettings().may_change == {"epochs", "minutes"}  # the patience sets when the rate is halved
    assert TrainSettings(schedule="one-cycle").may_change == {"minutes", "patience"}  # depends on its length


def test_schedules() -> None:
    def rates(settings: TrainSettings, losses: list[float]) -> list[float]:
        optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=settings.learning_rate)
        scheduler, found = make_scheduler(optimizer, settings), []
        for loss in losses:
            optimizer.step()
            scheduler.step(*([loss] if settings.schedule == "plateau" else []))
            found.append(optimizer.param_groups[0]["lr"])
        return found

    # Halved whenever patience / 2 epochs are no better than the first.
    assert rates(TrainSettings(patience=4), [1.0] * 5) == [1e-3, 1e-3, 5e-4, 5e-4, 2.5e-4]
    cycle = rates(TrainSettings(schedule="one-cycle", epochs=2, epoch_steps=10), [0.0] * 20)
    assert (
        max(cycle) == pytest.approx(1e-3, rel=0.01) and cycle[-1] < 1e-8 and cycle.index(max(cycle)) in (5, 6)
    )


def test_bfloat16_is_where_it_is_asked_for_or_fast() -> None:
    assert uses_bfloat16(TrainSettings(mixed_precision=True), "cpu")
    assert not uses_bfloat16(TrainSettings(mixed_precision=False), "cpu")
    assert uses_bfloat16(TrainSettings(), "cpu") == torch.cpu._is_amx_tile_supported()


@pytest.mark.parametrize("loss, rise", [(0.1, 0.0), (-10.0, 0.0), (-10.0, 1e-5)])
def test_the_rate_is_halved_after_so_many_epochs_that_are_no_better(loss: float, rise: float) -> None:
    settings = TrainSettings(patience=6)
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make_scheduler(optimizer, settings)
    rates = []
    for epoch in range(1 + settings.plateau_epochs):
        scheduler.step(loss + rise * epoch)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [1.0] * settings.plateau_epochs + [0.5]
