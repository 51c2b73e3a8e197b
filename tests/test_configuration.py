"""A recipe's configuration: one file, and ``--key value`` for what differs."""

import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml

from svs_unet_plugin import UNet
from svs_unet_plugin.files import write_json
from svs_unet_plugin.mixing.excerpts import ExcerptSettings
from svs_unet_plugin.training import configuration
from svs_unet_plugin.training.configuration import Configuration, RecipeParser, keep, read
from svs_unet_plugin.training.settings import TrainSettings


def configured(*arguments: str) -> Configuration:
    parser = RecipeParser("Test")
    return parser.configuration(parser.parse_args(list(arguments)))


def test_the_defaults_are_those_of_what_is_configured() -> None:
    conf = configured()
    assert (conf.sources, conf.hop_length) == (("vocals",), 768)
    network = {"channels": 16, "bottleneck": None, "max_channels": None, "residual_blocks": 0}
    assert conf.network == {"in_channels": 1, **network} and conf.weights is None
    assert conf.excerpts == ExcerptSettings() and conf.training == TrainSettings()
    assert conf.name == "U-Net"


def begins(*arguments: str, sample_rate: int = 8192) -> UNet:
    """A network of a configuration, as its training begins with it."""
    conf = configured(*arguments)
    network = UNet(sources=conf.sources, **conf.network)
    conf.load_weights(network, conf.stft(sample_rate))
    return network


def test_a_training_begins_with_weights(network: UNet, checkpoint_path: Path) -> None:
    """Those of one channel are widened for two; those of another network, or transform, are refused."""
    same = ("--weights", str(checkpoint_path), "--channels", "4")
    begun = begins(*same)
    assert begun.training
    for name, weight in begun.state_dict().items():
        assert torch.equal(weight, network.state_dict()[name])
    widened = begins(*same, "--in_channels", "2")
    assert widened.in_channels == 2 and widened.training
    assert torch.equal(widened.encoder[0][0].weight[:, 2:3], network.encoder[0][0].weight)
    for option, message in (
        (("--channels", "8"), "have other settings: channels was 4 and is now 8"),
        (("--hop_length", "256"), "have other settings: hop_length was 768 and is now 256"),
        (("--sources", "vocals,drums"), "have other settings: sources was"),
    ):
        with pytest.raises(ValueError, match=message):
            begins(*same, *option)
    with pytest.raises(ValueError, match="have other settings: sample_rate was 8192 and is now 16000"):
        begins(*same, sample_rate=16_000)
    with pytest.raises(FileNotFoundError, match="no checkpoint at nothing"):
        begins("--weights", "nothing")


def test_options_override_the_file(tmp_path: Path) -> None:
    path = tmp_path / "conf.yml"
    path.write_text(
        "sources: vocals,drums\nepochs: 3\nmax_channels: 256\nresidual_blocks: 1\nlearning_rate: 2e-3\n"
    )
    conf = configured("--conf", str(path), "--epochs", "4", "--max_channels", "null", "--bottleneck", "blstm")
    assert conf.sources == ("vocals", "drums") and conf.name == "Residual U-Net + BLSTM, 2 stems"
    assert conf.training == TrainSettings(epochs=4, learning_rate=2e-3)
    assert conf.network["max_channels"] is None


def test_every_setting_is_an_option_and_has_its_text_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        RecipeParser("Test").parse_args(["--help"])
    said = capsys.readouterr().out
    for settings in (ExcerptSettings, TrainSettings):
        for field in fields(settings):
            assert f"--{field.name} " in said
    assert "epochs without a lower validation loss after which" in " ".join(said.split())


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--lerning_rate", "1"), "unrecognized arguments: --lerning_rate 1"),
        (("--epochs", "many"), 'Parser key "epochs"'),
        (("--loss", "l3"), "Literal['l1', 'snr']. Got value: l3"),
    ],
)
def test_wrong_options_are_refused(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        configured(*arguments)
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--epochs", "0"), "epochs must be at least 1, got 0"),
        (("--sources", "drums,bass"), "vocals among them, got 'drums,bass'"),
        (("--sources", "vocals,vocals"), "different names"),
        (("--sources", "vocals,"), "different names"),
    ],
)
def test_wrong_values_are_refused_in_a_sentence(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        configured(*arguments)


def test_an_experiment_keeps_what_it_is(tmp_path: Path) -> None:
    data, experiment = tmp_path / "prepared", tmp_path / "experiment"
    write_json(data / "settings.json", {"source": "/a/musdb"})
    conf = configured("--epochs", "3")
    keep(conf, experiment, data)
    assert read(experiment) == conf
    kept = yaml.safe_load((experiment / "data.yml").read_text())
    assert kept.items() >= {"data_dir": str(data), "source": "/a/musdb"}.items() and len(kept["files"]) == 64
    assert "\nnumpy==" in (experiment / "versions.txt").read_text()

    keep(configured("--epochs", "5"), experiment, data)  # may grow
    assert read(experiment).training.epochs == 5
    with pytest.raises(ValueError, match=r"seed was 0 and is now 1\. .* another --tag"):
        keep(configured("--epochs", "5", "--seed", "1"), experiment, data)
    write_json(data / "settings.json", {"source": "/b/musdb"})
    with pytest.raises(ValueError, match="source was '/a/musdb' and is now '/b/musdb'"):
        keep(configured("--epochs", "5"), experiment, data)
    with pytest.raises(FileNotFoundError, match=r"conf\.yml is missing: train the experiment first"):
        read(tmp_path)


@pytest.mark.parametrize(
    "content, words",
    [
        (b"epochs: \xff", "can't decode byte 0xff"),
        (b"[" * 10_000, "maximum recursion depth"),
        (b"epochs: !!python/object/apply:os.system ['touch ran']", "could not determine a constructor"),
        (b"a: &a [x, x]\nb: [*a, *a]", "it has aliases"),
        (b"- 1", "holds no names with values"),
        (b"[" * 300_000, "it has 300000 bytes"),
    ],
)
def test_a_file_that_is_no_configuration(
    tmp_path: Path, content: bytes, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf.yml").write_bytes(content)
    for use in (lambda: read(tmp_path), lambda: keep(configured(), tmp_path, tmp_path)):
        with pytest.raises(ValueError, match=rf"conf\.yml can't be read.*{words}"):
            use()
    with pytest.raises(ValueError, match=words):
        configured("--conf", str(tmp_path / "conf.yml"))
    assert [path.name for path in tmp_path.iterdir()] == ["conf.yml"]


@pytest.mark.parametrize("content", ["epochs: 1", "sources: [vocals]", "sources: vocals\nepochs: x"])
def test_an_experiment_whose_configuration_is_damaged(tmp_path: Path, content: str) -> None:
    (tmp_path / "conf.yml").write_text(content)
    with pytest.raises(ValueError, match=r"conf\.yml is no configuration of an experiment: \w+Error"):
        read(tmp_path)


def test_what_an_experiment_keeps_configures_it_again(tmp_path: Path) -> None:
    keep(configured("--channels", "4", "--loss", "snr"), tmp_path, tmp_path)
    again = configured("--conf", str(tmp_path / configuration.CONFIGURATION_FILE))
    assert again == configured("--channels", "4", "--loss", "snr")


@pytest.mark.parametrize(
    "error, said",
    [
        (ValueError("this is bad"), "this is bad"),
        (OSError(28, "No space left on device", "last.ckpt"), "last.ckpt: No space left on device"),
        (ValueError("no track \x1b[2J"), "no track \\x1b[2J"),
        (RuntimeError("no memory\nat c10::Error"), "no memory"),
    ],
)
def test_bad_input_ends_a_script_with_one_sentence(error: Exception, said: str) -> None:
    """As it ends the command, in a line that does nothing to a terminal."""

    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        configuration.run(main)
    assert str(ended.value) == f"{Path(sys.argv[0]).name}: {said}"


def test_what_only_the_script_is_to_know_is_no_part_of_the_configuration() -> None:
    parser = RecipeParser("Test")
    parser.add_script_argument("--devices", type=int)
    parser.add_argument("--mixing", default="remix")
    conf = parser.configuration(parser.parse_args(["--devices", "2"]))
    assert conf.values["mixing"] == "remix" and not {"devices", "conf"} & set(conf.values)
