import json
import os
import random
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from killing import kill_when

from svs_unet_plugin import STFT, checkpoint
from svs_unet_plugin.asteroid import SVSUNet, asteroid
from svs_unet_plugin.asteroid.datasets import Excerpts, excerpt_loader, whole_songs
from svs_unet_plugin.asteroid.training import MaskSystem, load_best, one_channel_each, train
from svs_unet_plugin.corpora.musdb import STEMS
from svs_unet_plugin.corpora.prepare import Prepared, prepare
from svs_unet_plugin.corpora.synthetic.corpus import make_corpus
from svs_unet_plugin.files import lock
from svs_unet_plugin.mixing.excerpts import ExcerptSettings, draw_generator, mapped_songs
from svs_unet_plugin.training.settings import TrainSettings

BaseModel = asteroid.models.BaseModel

TRAIN = Path(__file__).parent.parent / "recipes" / "musdb18" / "asteroid" / "train.py"

SMALL = (
    "--channels 2 --excerpt_frames 32 --epoch_steps 3 --batch_size 4 --epochs 3 "
    "--loss snr --schedule one-cycle"
).split()
"""A network and excerpts so small that what takes time is the start of the processes."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Seven synthetic songs of four seconds: five to train on, one for validation, one to test on."""
    folder = tmp_path_factory.mktemp("songs")
    make_corpus(folder / "corpus", 7, 4, 0, sample_rate=8192)
    return prepare(folder / "corpus", folder / "prepared", jobs=1)


def command(prepared: Prepared, out: Path, *arguments: str) -> list[str]:
    return [
        str(TRAIN), "--exp_dir", str(out), "--data_dir", str(prepared.folder), "--accelerator", "cpu",
        *SMALL, *arguments,
    ]  # fmt: skip


def start(arguments: list[str]) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(*processes: subprocess.Popen) -> None:
    for process in processes:
        said = process.communicate()[0]
        assert process.returncode == 0, said


def losses(out: Path) -> np.ndarray:
    """``(epochs, 2)``: the mean loss of the steps, and that of validation."""
    return np.loadtxt(out / "losses.csv", delimiter=",", skiprows=1, ndmin=2)[:, 1:]


@pytest.fixture(scope="module")
def undisturbed(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes, in double precision."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(start([sys.executable, *command(prepared, out, "--precision", "64-true")]))
    return out


def test_what_a_run_leaves(undisturbed: Path) -> None:
    names = {path.name for path in undisturbed.iterdir()}
    assert {
        "conf.yml",
        "versions.txt",
        "losses.csv",
        "best_k_models.json",
        "best_model.pth",
        "checkpoints",
    } <= names
    assert f"torch=={torch.__version__}" in (undisturbed / "versions.txt").read_text()
    assert "batch_size: 4" in (undisturbed / "conf.yml").read_text()
    curve = losses(undisturbed)
    assert curve.shape == (3, 2) and np.isfinite(curve).all()
    loaded = checkpoint.read(undisturbed / "best_model.pth")
    assert (loaded.host, loaded.network.channels, loaded.stft.hop_length) == ("asteroid", 2, 768)
    content = torch.load(undisturbed / "best_model.pth")
    assert content["dataset"] == "musdb18" and content["task"] == "enhancement"


def test_the_loss_is_the_papers_or_the_snr(prepared: Prepared) -> None:
    """Against the audio that comes out: what its phase leaves no mask to change is within half a dB."""
    data = excerpts(prepared, 3.0)
    batch = next(iter(excerpt_loader(data, 4)))
    model = SVSUNet(channels=2)
    plain, snr = (
        MaskSystem(model, data, whole_songs(prepared), TrainSettings(loss=loss)).eval()  # type: ignore[arg-type]
        for loss in ("l1", "snr")
    )
    mixture, vocals = one_channel_each(batch)
    with torch.no_grad():
        estimates, references, _ = model.magnitudes(mixture, vocals[:, :, None])
        expected = (estimates - references).abs().mean().item()
        assert plain.common_step(batch, 0).item() == pytest.approx(expected)
        error = (model(mixture)[:, :1] - vocals).square().sum(dim=-1) / mixture.square().sum(dim=-1)
        assert snr.common_step(batch, 0).item() == pytest.approx(10 * error.log10().mean().item(), abs=0.5)


def test_each_mask_is_trained_towards_its_own_source(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one source alone sounds, its mask should let all through, and the other nothing."""
    sources = ("bass", "vocals")
    data = excerpts(prepared, 3.0, sources=sources)
    mixture, references = next(iter(excerpt_loader(data, 2)))
    assert references.shape == (2, 2, 1, mixture.shape[-1])
    songs = whole_songs(prepared, sources)
    model = SVSUNet(sources, channels=2)
    for sounds in (0, 1):
        references = torch.zeros_like(references)
        references[:, sounds] = mixture
        for loss, least in (("l1", 0.0), ("snr", -30.0)):
            trained = MaskSystem(model, data, songs, TrainSettings(loss=loss)).eval()  # type: ignore[arg-type]
            for opened in (0, 1):

                def masks(x: torch.Tensor, opened: int = opened) -> torch.Tensor:
                    return torch.cat([torch.full_like(x, float(row == opened)) for row in (0, 1)], dim=1)

                monkeypatch.setattr(model.network, "forward", masks)
                value = trained.common_step((mixture, references), 0).item()
                assert (value == pytest.approx(least, abs=1e-6)) == (opened == sounds), (sounds, opened, loss)
    # The references are the songs' own.
    _, stems = songs[0]
    for source, stem in zip(sources, stems, strict=True):
        streams, _ = prepared.valid[0].read()
        np.testing.assert_array_equal(stem, streams[source])


def test_evaluation(prepared: Prepared, undisturbed: Path) -> None:
    corpus = prepared.folder.parent / "corpus"
    arguments = ["--exp_dir", undisturbed, "--data_dir", prepared.folder, "--source", corpus, "--jobs", "1"]
    finish(start([sys.executable, str(TRAIN.parent / "eval.py"), *map(str, arguments)]))
    metrics = json.loads((undisturbed / "final_metrics.json").read_text())
    system, (song,) = "svsunet", [track.name for track in prepared.test]
    scores = json.loads((undisturbed / "results" / system / "scale" / f"{song}.json").read_text())
    # one song, and so its own score is the median
    assert metrics["vocals_SI-SDR"] == pytest.approx(np.mean(scores["vocals"]["SI-SDR"]))
    assert {"vocals_SDR", "accompaniment_SDR"} <= metrics.keys()
    published = BaseModel.from_pretrained(undisturbed / "publish_dir" / "model.pth")
    infos = torch.load(undisturbed / "publish_dir" / "model.pth")["infos"]
    assert infos["final_metrics"] == metrics and infos["recipe_name"] == "musdb18/SVSUNet"
    network = checkpoint.read(undisturbed / "best_model.pth").network
    assert torch.equal(published.network.decoder[-1].weight, network.decoder[-1].weight)


def test_two_processes_learn_what_one_learns(prepared: Prepared, undisturbed: Path, tmp_path: Path) -> None:
    """The same seed, the same batches: batch normalisation, dropout, excerpts and clipping are all in it."""
    finish(
        start(
            [
                sys.executable,
                *command(prepared, tmp_path, "--devices", "2", "--strategy", "ddp", "--precision", "64-true"),
            ]
        )
    )
    np.testing.assert_allclose(losses(tmp_path), losses(undisturbed), rtol=1e-9)
    one, two = (checkpoint.read(out / "best_model.pth").network for out in (undisturbed, tmp_path))
    for left, right in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-9)


def test_two_nodes_learn_what_one_process_learns(
    prepared: Prepared, undisturbed: Path, tmp_path: Path
) -> None:
    """Two process groups on loopback, as torchrun starts them on two machines."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    nodes = "--devices 1 --num_nodes 2 --strategy ddp --precision 64-true".split()
    finish(
        *(
            start(
                [
                    sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1",
                    "--node_rank", str(rank), "--master_addr", "127.0.0.1", "--master_port", str(port),
                    *command(prepared, tmp_path, *nodes),
                ]
            )
            for rank in range(2)
        )
    )  # fmt: skip
    np.testing.assert_allclose(losses(tmp_path), losses(undisturbed), rtol=1e-9)


def test_a_killed_run_ends_where_an_undisturbed_one_ends(
    prepared: Prepared, undisturbed: Path, tmp_path: Path
) -> None:
    arguments = [sys.executable, *command(prepared, tmp_path, "--precision", "64-true", "--workers", "2")]
    assert kill_when(
        (tmp_path / "checkpoints" / "last.ckpt").exists, arguments, environment={"OMP_NUM_THREADS": "1"}
    )
    assert not (tmp_path / "best_model.pth").exists()
    finish(start(arguments))
    assert (tmp_path / "losses.csv").read_bytes() == (undisturbed / "losses.csv").read_bytes()
    ends = [torch.load(out / "checkpoints" / "last.ckpt") for out in (undisturbed, tmp_path)]
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(ends[0][part], ends[1][part], rtol=0, atol=0)


def test_excerpts_depend_on_nothing_but_the_draw(prepared: Prepared) -> None:
    data = excerpts(prepared, 2.0, seed=3)
    random.seed(5)
    before = random.getstate()
    mixture, sources = data[0, 1]
    assert random.getstate() == before
    assert mixture.shape == (1, data.mixer.samples) and sources.shape == (1, 1, data.mixer.samples)
    again = excerpts(prepared, 2.0, seed=3)[0, 1]
    assert torch.equal(mixture, again[0]) and torch.equal(sources, again[1])
    for other in (data[1, 1], data[0, 2], excerpts(prepared, 2.0, seed=4)[0, 1]):
        assert not torch.equal(mixture, other[0])
    by_workers = [torch.cat([batch[0] for batch in excerpt_loader(data, 2, workers)]) for workers in (0, 2)]
    assert torch.equal(*by_workers)


@pytest.mark.parametrize("in_channels", [1, 2])
def test_both_hosts_train_on_the_same_draws(prepared: Prepared, in_channels: int) -> None:
    """To the bit; nussl's `Remix` then has the magnitudes of asteroid's excerpts, but for their scale."""
    import svs_unet_plugin.nussl as svs

    settings, sources = ExcerptSettings(excerpt_frames=20, filtered=0.5), ("vocals", "drums")
    data = excerpts_of(prepared, STFT(), sources, settings=settings, seed=7, in_channels=in_channels)
    rows = ["drums", "vocals", "bass", "other"]
    remix = svs.Remix(
        mapped_songs(prepared.train, rows),
        sources=sources,
        others=rows[2:],
        settings=settings,
        seed=7,
        in_channels=in_channels,
    )
    draws = [(0, 0), (0, 1), (3, 5)]
    batch = remix.__getitems__(draws)
    for i, draw in enumerate(draws):
        mixture, references = data[draw]
        drawn = torch.from_numpy(remix.mixer.draw(draw_generator(remix.seed, draw)))
        assert torch.equal(mixture, drawn.sum(dim=0))
        assert torch.equal(references, drawn[[rows.index(name) for name in sources]])
        heard = torch.cat([mixture[None], references])  # (mixture and sources, channels, samples)
        spectra = torch.stft(
            heard.flatten(0, 1), 1024, 768, window=torch.hann_window(1024), center=False, return_complex=True
        ).unflatten(0, heard.shape[:2])
        scale = spectra[0].abs().max() / batch["mix_magnitude"][i].max()
        mixed = batch["mix_magnitude"][i].permute(2, 1, 0) * scale
        torch.testing.assert_close(mixed, spectra[0].abs())
        for name, spectrum in zip(sources, spectra[1:], strict=True):
            ours = batch["source_magnitudes"][i, ..., rows.index(name)].permute(2, 1, 0) * scale
            torch.testing.assert_close(ours, spectrum.abs())
        if in_channels == 2:
            left, right = spectra[0]
            mid_side = batch["mid_side_magnitude"][i].permute(2, 1, 0) * scale
            expected = torch.stack([left + right, left - right]).abs() / 2
            torch.testing.assert_close(mid_side, expected, atol=1e-4, rtol=1e-4)


def test_songs_for_validation_are_those_of_musdb_alone(prepared: Prepared) -> None:
    songs = whole_songs(prepared)
    assert [track["path"].name for track in songs.tracks] == [track.name for track in prepared.valid]
    mixture, vocals = songs[0]
    assert mixture.shape == (2, 4 * 8192) and vocals.shape == (1, 2, 4 * 8192)
    with pytest.raises(ValueError, match="no song has guitar"):
        excerpts(prepared, 2.0, sources=("vocals", "guitar"))


class Level(MaskSystem):
    """Its validation loss gets no better."""

    def common_step(self, batch: Any, batch_nb: int, train: bool = True) -> torch.Tensor:
        loss = super().common_step(batch, batch_nb, train)
        return loss if train else torch.ones(())


def excerpts(
    prepared: Prepared,
    seconds: float,
    *,
    hop: int = 768,
    sources: Any = ("vocals",),
    items: int = 8,
    seed: int = 0,
) -> Excerpts:
    settings = ExcerptSettings(excerpt_frames=round(seconds * 8192 / hop))
    return excerpts_of(prepared, STFT(hop_length=hop), sources, settings=settings, items=items, seed=seed)


def excerpts_of(prepared: Prepared, *arguments: Any, **options: Any) -> Excerpts:
    return Excerpts(mapped_songs(prepared.train, STEMS), *arguments, **options)


def system(
    kind: type[MaskSystem], prepared: Prepared, hop: int = 768, seconds: float = 2.0, **settings: Any
) -> MaskSystem:
    torch.manual_seed(0)
    settings = {"epochs": 1, "epoch_steps": 2, "batch_size": 4, "loss": "snr", **settings}
    model = SVSUNet(channels=2, hop_length=hop)
    return kind(model, excerpts(prepared, seconds, hop=hop), whole_songs(prepared), TrainSettings(**settings))


def run(trained: MaskSystem, out: Path, **options: Any) -> Path:
    return train(trained, out, progress=False, accelerator="cpu", **options)


def test_early_stopping_and_the_learning_rate(prepared: Prepared, tmp_path: Path) -> None:
    trained = system(Level, prepared, epochs=9, patience=4)
    run(trained, tmp_path)
    assert len(losses(tmp_path)) == 5  # the first is the best, and four are no better
    assert trained.trainer.optimizers[0].param_groups[0]["lr"] == 1e-3 / 4  # halved after each two of them
    run(system(Level, prepared, epochs=9, patience=4), tmp_path)
    assert len(losses(tmp_path)) == 5  # it remembers


def test_another_configuration_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    run(system(MaskSystem, prepared), tmp_path)
    with pytest.raises(ValueError, match=r"learning_rate was 0\.001 and is now 0\.1"):
        run(system(MaskSystem, prepared, learning_rate=0.1), tmp_path)
    trained = system(MaskSystem, prepared, epochs=2)
    trained.excerpts.seed = 5
    with pytest.raises(ValueError, match="excerpts_seed was 0 and is now 5"):
        run(trained, tmp_path)
    for epochs in (2, 1):  # fewer than there are: nothing is left to be done
        best = run(system(MaskSystem, prepared, epochs=epochs), tmp_path)
        assert len(losses(tmp_path)) == 2 and best.is_file()


def test_a_folder_that_was_moved(prepared: Prepared, tmp_path: Path) -> None:
    """The best epoch of before is the best one there, too."""
    learned = run(system(MaskSystem, prepared, epochs=2), tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    again = run(system(MaskSystem, prepared, epochs=2), tmp_path / "there")  # nothing is left to be done
    assert again.name == learned.name and again.parent.parent.name == "there" and again.is_file()


def test_other_songs_are_refused(prepared: Prepared, tmp_path: Path) -> None:
    run(system(MaskSystem, prepared), tmp_path)
    trained = system(MaskSystem, prepared, epochs=2)
    trained.excerpts.mixer.songs.pop()
    with pytest.raises(ValueError, match=r"songs was .* and is now"):
        run(trained, tmp_path)


def test_an_epoch_is_as_many_steps_as_are_asked_for(prepared: Prepared, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"3 steps of 4 items, and so the excerpts' items must be 12, got 8"):
        run(system(MaskSystem, prepared, epoch_steps=3), tmp_path)


def test_a_refused_run_leaves_no_lock(prepared: Prepared, tmp_path: Path) -> None:
    class Failing(MaskSystem):
        def common_step(self, batch: Any, batch_nb: int, train: bool = True) -> torch.Tensor:
            raise TypeError("after the lock was taken")

    with lock(tmp_path / "checkpoints"), pytest.raises(ValueError, match="is in use by another run"):
        run(system(MaskSystem, prepared), tmp_path)
    with pytest.raises(TypeError, match="after the lock"):
        run(system(Failing, prepared), tmp_path)
    run(system(MaskSystem, prepared), tmp_path)
    assert len(losses(tmp_path)) == 1


def test_mixed_precision(prepared: Prepared, tmp_path: Path) -> None:
    curves = []
    for precision in ("32-true", "bf16-mixed"):
        # More than 64 frames: in torch 2.13 a bfloat16 convolution wider than its input may give NaN on CPUs.
        trained = system(MaskSystem, prepared, hop=256, seconds=3.0)
        best = run(trained, tmp_path / precision, precision=precision)
        curves.append(losses(tmp_path / precision))
    # bfloat16 has 8 bits; and that they differ shows that it was at work
    np.testing.assert_allclose(curves[1], curves[0], rtol=0.02)
    assert (curves[1] != curves[0]).all()
    model = load_best(SVSUNet(channels=2), best)
    assert not model.training and model(torch.rand(1, 3000)).dtype == torch.float32


def test_it_learns(prepared: Prepared, tmp_path: Path) -> None:
    run(system(MaskSystem, prepared, epochs=12, learning_rate=1e-2), tmp_path)
    curve = losses(tmp_path)[:, 0]
    assert curve[-1] < 0.8 * curve[0]


def test_a_loss_that_is_not_finite_stops(prepared: Prepared, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the losses of epoch 1 are"):
        run(system(MaskSystem, prepared, learning_rate=1e30, max_norm=None), tmp_path)
