import asyncio
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from svs_unet_plugin import Separator, audio, cli, encoding, page
from svs_unet_plugin.encoding import Encoding
from svs_unet_plugin.page.songs import PIECE_SECONDS, Limits, Refused, Songs, formats
from svs_unet_plugin.separator import Cancelled
from svs_unet_plugin.weights import PRETRAINED

gradio_client = pytest.importorskip("gradio_client")
httpx = pytest.importorskip("httpx")
starlette_testclient = pytest.importorskip("starlette.testclient")

RATE = 44_100
PATHS = re.compile(r"/tmp/|/home/|/root/|site-packages|Traceback|\.py\b")
"""What would tell where something lies on the server."""


@dataclass(frozen=True)
class Server:
    """The real command, in a process whose temporary folder is known."""

    address: str
    scratch: Path

    def songs(self) -> list[Path]:
        return list(self.scratch.glob("svs-unet-page-*/*/"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Somebody's own weights: those that are fast."""
    path = tmp_path_factory.mktemp("weights") / "mine.pth"
    path.write_bytes((PRETRAINED / "small.pth").read_bytes())
    return path


@pytest.fixture(scope="module")
def server(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    scratch = tmp_path_factory.mktemp("scratch")
    command = [sys.executable, "-m", "svs_unet_plugin.cli", "serve", "--max-minutes", "0.6"]
    command += ["--max-megabytes", "12", "--weights", str(weights)]
    environment = {**os.environ, "TMPDIR": str(scratch), "PYTHONUNBUFFERED": "1"}
    environment.update(http_proxy="http://192.0.2.1:9", ALL_PROXY="http://192.0.2.1:9")  # as offices have it
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            address = process.stdout.readline().split()[0]
            yield Server(address, scratch)
            leave_at_work(address)
        finally:
            process.send_signal(signal.SIGINT)
            code = process.wait(20)
        errors = process.stderr.read()
    assert code == 0
    assert errors == ""
    assert not list(scratch.glob("svs-unet-page-*"))  # nothing is left of the songs


def leave_at_work(address: str) -> None:
    """Give a long song, and return once it is being separated."""
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (35 * 8_000, 6))
    file = io.BytesIO()
    soundfile.write(file, samples, 8_000, format="FLAC")
    songs = re.search(r"songs/[\w-]+", httpx.get(address, trust_env=False).text)
    assert songs
    given = httpx.post(f"{address}{songs[0]}?name=long.flac", content=file.getvalue(), trust_env=False)
    client = gradio_client.Client(address, verbose=False)
    work = client.submit(given.json()["song"], "vocals", 8, api_name="/separate")
    deadline = time.monotonic() + 20
    while not work.status().progress_data and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not work.done()


# Records when each piece of a stem starts, and how loud the speakers are.
LISTEN = """
window.starts = [];
const start = AudioBufferSourceNode.prototype.start;
AudioBufferSourceNode.prototype.start = function (when) {
    window.starts.push([when, this.buffer.length, this.context.sampleRate]);
    return start.call(this, when);
};
const connect = AudioNode.prototype.connect;
AudioNode.prototype.connect = function (to, ...rest) {
    if (to instanceof AudioDestinationNode) {
        window.heard ??= new AnalyserNode(to.context, { fftSize: 8192 });
        connect.call(this, window.heard);
    }
    return connect.call(this, to, ...rest);
};
window.level = () => {
    const samples = new Float32Array(8192);
    window.heard.getFloatTimeDomainData(samples);
    return Math.sqrt(samples.reduce((sum, x) => sum + x * x, 0) / samples.length);
};
"""


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_musician_uses_the_page(
    browser: Any,
    server: Server,
    weights: Path,
    song_path: Path,
    song: np.ndarray,
    tmp_path: Path,
    width: int,
    scheme: str,
) -> None:
    """A song is given, separated, played, mixed and downloaded, with no network but this machine's."""
    from playwright.sync_api import expect

    context = browser.new_context(viewport={"width": width, "height": 850}, color_scheme=scheme)
    tab = context.new_page()
    tab.add_init_script(LISTEN)
    said: list[str] = []
    answers: list[Any] = []
    tab.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("response", lambda answer: answers.append(answer))
    tab.goto(server.address)
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") is (scheme == "light")

    tab.get_by_role("button", name="Separate").click()
    expect(tab.get_by_role("alert")).to_have_text("Choose or record a song first, and wait until it is here.")
    tab.set_input_files("input[type=file]", song_path)
    expect(tab.get_by_role("status").first).to_have_text(f"{audio.track_name(song_path)}, 0:06")
    tab.get_by_label("Weights").click()
    tab.get_by_role("option", name="mine").click()
    tab.get_by_label("3", exact=True).check()
    tab.get_by_role("button", name="Separate").click()
    play = tab.get_by_role("button", name="Play", exact=True)
    expect(play).to_be_visible(timeout=60_000)
    expect(tab.get_by_role("alert")).to_have_count(0)
    expect(tab.get_by_role("button", name="Separate")).to_be_visible()  # again
    pictures = tab.locator("svs-mixer img")
    tab.wait_for_function("[...document.querySelectorAll('svs-mixer img')].every((i) => i.complete)")
    assert pictures.evaluate_all("images => images.map((image) => image.naturalWidth)") == [1200] * 4
    names = ["Spectrogram of the mixture", "Spectrogram of the vocals", "Spectrogram of the accompaniment"]
    assert pictures.evaluate_all("images => images.map((image) => image.alt)") == [
        *names,
        "Mask of the vocals",
    ]

    # All stems start at the same time, and each piece where the one before it ends, to the sample.
    play.click()
    tab.wait_for_function("window.starts.length === 6")
    starts = np.array(tab.evaluate("window.starts"))
    assert set(starts[:, 2]) == {RATE}
    moments = np.unique(starts[:, 0])
    assert [np.sum(starts[:, 0] == moment) for moment in moments] == [3, 3]
    lengths = [starts[starts[:, 0] == moment, 1].max() for moment in moments]
    assert (moments[1] - moments[0]) * RATE == pytest.approx(lengths[0], abs=0.01)
    assert sum(lengths) == song.shape[1]
    expect(tab.locator(".svs-time")).to_contain_text("0:01 /")

    # A volume is heard, at once.
    volume = tab.get_by_role("slider", name="Vocals volume")
    tab.get_by_role("button", name="Vocals only").click()
    assert tab.get_by_role("slider", name="Accompaniment volume").get_attribute("aria-valuetext") == "off"
    tab.get_by_label("Position").fill("0")
    tab.wait_for_function("window.level() > 0.01")
    volume.press("Home")
    assert volume.get_attribute("aria-valuetext") == "off"
    tab.wait_for_function("window.level() < 1e-6")
    tab.get_by_role("button", name="Pause").click()  # it still plays, in silence
    place = tab.get_by_label("Position")
    place.press("Home")
    place.press("ArrowRight")
    expect(tab.locator(".svs-time")).to_have_text("0:05 / 0:06")
    rested = tab.locator(".svs-time").inner_text()
    expect(play).to_be_visible()
    tab.get_by_role("button", name="Karaoke").click()
    assert volume.get_attribute("aria-valuetext") == "−20 dB"
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")

    # What is downloaded is what the separator gives, sample by sample.
    stems = Separator(weights, views=3).separate(song, RATE)
    for name, expected in {
        "Vocals": stems["vocals"],
        "Accompaniment": stems["accompaniment"],
        "This mix": stems["accompaniment"] + np.float32(0.1) * stems["vocals"],
    }.items():
        with tab.expect_download() as download:
            tab.get_by_role("button", name=f"Download: {name}").click()
        assert download.value.suggested_filename.startswith(f"{audio.track_name(song_path)} - ")
        download.value.save_as(tmp_path / "stem.wav")
        samples, rate = soundfile.read(tmp_path / "stem.wav", dtype="float32")
        assert rate == RATE
        # Threads differ in number here and there, and with them the last bits.
        np.testing.assert_allclose(samples.T, expected, atol=1e-5)
    for name in ("Vocals volume", "Accompaniment volume"):
        tab.get_by_role("slider", name=name).press("Home")
    tab.get_by_role("button", name="This mix").click()
    failed = tab.locator("svs-mixer").get_by_role("status").last
    expect(failed).to_have_text("All volumes are off: there is nothing to download.")
    said = [text for text in said if "404" not in text]  # which the browser notes
    assert rested == tab.locator(".svs-time").inner_text()
    assert said == []

    # Nothing came from elsewhere, and nothing tells where the program or the songs lie.
    for answer in answers:
        assert answer.url.startswith((server.address, "blob:", "data:")), answer.url
        kind = answer.headers.get("content-type", "")
        if kind.startswith(("text/html", "application/json")) and "/songs/" not in answer.url:
            assert not PATHS.search(answer.text()), answer.url
    assert not PATHS.search(tab.content().replace("page.js", ""))
    if folder := os.environ.get("SCREENSHOTS"):
        tab.screenshot(path=f"{folder}/page-{scheme}-{width}.png", full_page=True)
    context.close()


# It takes as long as people who are asked whether it may be used, and counts what records.
SLOW_MICROPHONE = """
() => {
    const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    navigator.mediaDevices.getUserMedia = async (what) => {
        await new Promise((done) => setTimeout(done, 1000));
        return ask(what);
    };
    window.recorders = 0;
    const start = MediaRecorder.prototype.start;
    MediaRecorder.prototype.start = function () {
        window.recorders++;
        return start.call(this);
    };
}
"""


def test_recording_stopping_and_refusals(browser: Any, server: Server, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    tab = browser.new_page()
    tab.goto(server.address)
    status = tab.get_by_role("status").first
    (tmp_path / "notes.mp3").write_text("not a song")
    tab.set_input_files("input[type=file]", tmp_path / "notes.mp3")
    expect(status).to_contain_text("notes.mp3 is not audio that can be read")
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (35 * 16_000, 2))
    soundfile.write(tmp_path / "large.wav", np.tile(noise, (6, 1)), 16_000, "FLOAT")
    tab.set_input_files("input[type=file]", tmp_path / "large.wav")
    expect(status).to_have_text("large.wav is larger than 12 MB, the most that is taken here.")

    soundfile.write(tmp_path / "noise.flac", np.tile(noise, (1, 4)), 16_000)  # so that it takes long
    tab.set_input_files("input[type=file]", tmp_path / "noise.flac")
    expect(status).to_have_text("noise, 0:35")
    tab.get_by_label("3", exact=True).check()
    tab.get_by_role("button", name="Separate").click()
    expect(tab.locator("#mixer")).to_contain_text("Separating", timeout=30_000)
    tab.get_by_role("button", name="Stop").click()
    expect(tab.get_by_role("alert")).to_contain_text("Stop")  # at once
    expect(tab.get_by_role("alert")).to_have_text("Stopped.", timeout=30_000)
    expect(tab.get_by_role("button", name="Separate")).to_be_visible()
    (folder,) = (f for f in server.songs() if soundfile.info(f / "mixture.wav").samplerate == 16_000)
    assert [path.name for path in folder.iterdir()] == ["mixture.wav"]  # and nothing half-written

    tab.evaluate(SLOW_MICROPHONE)
    tab.get_by_role("button", name="Record", exact=True).dblclick()
    expect(status).to_have_text("Recording: 0:01")
    assert tab.evaluate("window.recorders") == 1
    tab.get_by_role("button", name="Stop recording").click()
    expect(status).to_have_text(re.compile("Recording, 0:0[1-9]"))

    # It stops before it is too large: 3 s of 16-bit stereo at 48 kHz.
    tab.evaluate("document.querySelector('svs-song').given.megabytes = 0.6")
    tab.get_by_role("button", name="Record", exact=True).click()
    expect(status).to_have_text(re.compile("Recording: "))
    expect(status).to_have_text(re.compile("Recording, 0:0[1-3]"), timeout=10_000)
    tab.close()


# ---- What the page's script asks for, without a browser.


@dataclass
class Client:
    songs: Songs
    http: Any

    def give(self, path: Path | bytes, name: str = "a song.wav") -> Any:
        content = path if isinstance(path, bytes) else path.read_bytes()
        return self.http.post(self.songs.address, params={"name": name}, content=content)

    def folder(self) -> list[Path]:
        return [path for path in Path(self.songs._folder.name).iterdir() if path.name != ".lock"]


def test_one_song_after_another(browser: Any, server: Server, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    tab = browser.new_page()
    tab.goto(server.address)
    status, mixer = tab.get_by_role("status").first, tab.locator("svs-mixer")
    for i, name in enumerate(("first (feat. all).mix", "second", "third")):
        samples = np.random.default_rng(i).uniform(-0.5, 0.5, (2 * 22_050, 2))
        soundfile.write(tmp_path / f"{name}.flac", samples, 22_050)
        tab.set_input_files("input[type=file]", tmp_path / f"{name}.flac")
        expect(status).to_have_text(f"{name}, 0:02")
        tab.get_by_role("button", name="Separate").click()
        expect(mixer.get_by_role("heading", level=2)).to_have_text(name, timeout=60_000)
        expect(mixer.get_by_role("button", name="Play", exact=True)).to_have_count(1)
        mixer.get_by_role("button", name="Play", exact=True).click()

    # The one that is at work is stopped, also when another one was given meanwhile.
    long = np.random.default_rng(0).uniform(-0.5, 0.5, (35 * 22_050, 8))
    soundfile.write(tmp_path / "long.flac", long, 22_050)
    tab.set_input_files("input[type=file]", tmp_path / "long.flac")
    expect(status).to_have_text("long, 0:35")
    tab.get_by_label("3", exact=True).check()
    tab.get_by_role("button", name="Separate").click()
    expect(tab.locator("#mixer")).to_contain_text("Separating", timeout=30_000)
    tab.set_input_files("input[type=file]", tmp_path / "second.flac")
    expect(status).to_have_text("second, 0:02")
    tab.get_by_role("button", name="Stop").click()
    expect(tab.get_by_role("alert")).to_have_text("Stopped.", timeout=30_000)
    tab.close()


# Pieces never come, and it is seen which ones nobody waits for any more.
NO_PIECES = """() => {
    const fetch = window.fetch;
    window.asked = [];
    window.fetch = (address, options) => {
        if (!String(address).includes("/pieces/")) return fetch(address, options);
        return new Promise((answer, fail) => {
            const signal = options?.signal ?? new AbortController().signal;
            signal.onabort = () => fail(signal.reason);
            window.asked.push(signal);
        });
    };
}"""

MIXER = """(given) => {
    const mixer = document.createElement("svs-mixer");
    mixer.dataset.given = JSON.stringify(given);
    document.body.prepend(mixer);
}"""


def test_another_position_is_fetched_once_and_the_last_one_no_longer(browser: Any, server: Server) -> None:
    from playwright.sync_api import expect

    tab = browser.new_page()
    tab.goto(server.address)
    expect(tab.get_by_role("button", name="Separate")).to_be_visible()
    tab.evaluate(NO_PIECES)
    stems = {"mixture": "Mixture", "vocals": "Vocals"}
    sound = {"rate": RATE, "channels": 1, "samples": 60 * RATE, "hz": [40, RATE / 2], "decibels": [-60, 6]}
    names = {"address": "songs/a", "run": "a", "name": "a", "mixture": "mixture", "mix": "mix", "mask": None}
    tab.evaluate(MIXER, {**sound, **names, "stems": stems, "formats": {"wav": "WAV"}})
    asked = lambda: tab.evaluate("window.asked.map((signal) => signal.aborted)")  # noqa: E731
    tab.get_by_role("button", name="Play", exact=True).click()
    tab.wait_for_function("window.asked.length === 2")

    place, time_shown = tab.get_by_label("Position"), tab.locator(".svs-time")
    box = place.bounding_box()
    middle = box["y"] + box["height"] / 2
    tab.mouse.move(box["x"] + 0.1 * box["width"], middle)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 0.5 * box["width"], middle, steps=20)
    expect(time_shown).to_have_text(re.compile("0:(29|30) / 1:00"))
    assert asked() == [False] * 2
    tab.mouse.up()
    tab.wait_for_function("window.asked.length === 4")
    assert asked() == [True] * 2 + [False] * 2
    place.press("ArrowRight")
    expect(time_shown).to_have_text(re.compile("0:3[45] / 1:00"))
    tab.wait_for_function("window.asked.length === 6")
    tab.get_by_role("button", name="Pause").click()
    assert asked() == [True] * 6
    place.press("Home")
    expect(time_shown).to_have_text("0:00 / 1:00")
    expect(tab.locator("svs-mixer p.svs-state").first).to_be_hidden()  # nothing went wrong
    tab.close()


def test_a_page_that_is_left_stops_its_song(browser: Any, server: Server, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    tab = browser.new_page()
    tab.goto(server.address)
    long = np.random.default_rng(0).uniform(-0.5, 0.5, (35 * 12_000, 8))
    soundfile.write(tmp_path / "long.flac", long, 12_000)
    tab.set_input_files("input[type=file]", tmp_path / "long.flac")
    expect(tab.get_by_role("status").first).to_have_text("long, 0:35")
    tab.get_by_label("3", exact=True).check()
    tab.get_by_role("button", name="Separate").click()
    (folder,) = (f for f in server.songs() if soundfile.info(f / "mixture.wav").samplerate == 12_000)
    written = lambda: [path.name for path in folder.iterdir()]  # noqa: E731
    wait_until(lambda: len(written()) > 1)
    tab.goto("about:blank")
    wait_until(lambda: written() == ["mixture.wav"])
    tab.close()


def wait_until(moment: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not moment():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    "given, name",
    [
        (
            "Someone (feat. Somebody Else) " + "x" * 90 + ".mp3",
            ("Someone (feat. Somebody Else) " + "x" * 90)[:100],
        ),
        ("\N{HIRAGANA LETTER A}\N{IDEOGRAPHIC SPACE}b.mp3", "\N{HIRAGANA LETTER A} b"),
        ("a\N{ZERO WIDTH JOINER}b.mp3", "a\N{ZERO WIDTH JOINER}b"),
        ("C:\\Music\\a: b.mp3", "a: b"),
        ("a\N{RIGHT-TO-LEFT OVERRIDE}b\n\x1b[1m.mp3", "ab[1m"),
    ],
)
def test_names_of_songs(make_client: Callable[..., Client], given: str, name: str) -> None:
    assert make_client().songs._new(given).name == name


@pytest.fixture
def make_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Client]]:
    from starlette.applications import Starlette

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made: list[Songs] = []

    def make(jobs: int | None = None, **limits: float) -> Client:
        songs = Songs(Limits(**limits), jobs)  # type: ignore[arg-type]
        made.append(songs)
        return Client(songs, starlette_testclient.TestClient(Starlette(routes=songs.routes())))

    yield make
    for songs in made:
        songs.close()


@pytest.fixture
def tone(tmp_path: Path) -> Path:
    """A second of stereo."""
    samples = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    soundfile.write(tmp_path / "tone.wav", np.stack([samples, 0.5 * samples], axis=1), RATE, "FLOAT")
    return tmp_path / "tone.wav"


def test_pieces_are_the_song(make_client: Callable[..., Client], tone: Path) -> None:
    client = make_client()
    answer = client.give(tone, "../../etc/Ünïcode <b>.wav").json()
    assert (answer["name"], answer["seconds"]) == ("Ünïcode <b>", 1.0)
    assert not PATHS.search(str(answer))
    samples = soundfile.read(tone, dtype="float32")[0]
    at = f"{client.songs.address}/{answer['song']}"
    piece = client.http.get(f"{at}/pieces/mixture", params={"start": 1_000, "count": 50})
    np.testing.assert_array_equal(np.frombuffer(piece.content, "<f4").reshape(-1, 2), samples[1_000:1_050])
    piece = client.http.get(f"{at}/pieces/mixture", params={"start": RATE - 10, "count": 50})
    assert len(piece.content) == 10 * 2 * 4


def test_downloads_in_all_formats(make_client: Callable[..., Client], tmp_path: Path) -> None:
    """At the volumes that were asked for, with the song's tags; what would be too loud is not distorted."""
    samples = np.outer([0.9, 0.45], np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)).astype(np.float32)
    with encoding.writers(
        [tmp_path / "tagged.flac"], Encoding("flac"), RATE, *samples.shape, {"title": "A tune"}
    ) as (write,):
        write(samples)
    client = make_client()
    song = client.give(tmp_path / "tagged.flac").json()["song"]
    assert {"wav", "flac"} <= set(formats()) <= set(encoding.FORMATS)
    for extension in formats():
        at = f"{client.songs.address}/{song}/files/mix.{extension}"
        peaks = {-6: 0.9 * 10 ** (-6 / 20)}
        if extension in ("wav", "flac"):  # of which float knows more than full scale
            peaks[6] = 0.9 * 10 ** (6 / 20) if extension == "wav" else 1.0
        for decibels, peak in peaks.items():
            answer = client.http.get(at, params={"mixture": decibels})
            assert answer.status_code == 200
            assert f"mix.{extension}" in answer.headers["content-disposition"]
            (tmp_path / "got").write_bytes(answer.content)
            got, rate = audio.read(tmp_path / "got")
            middle = np.abs(got[:, rate // 2 : -rate // 2]).max(axis=1)
            np.testing.assert_allclose(middle, [peak, peak / 2], rtol=0.03)  # lossy
            assert 0 <= got.shape[1] - 2 * rate <= 1024  # a frame of AAC
            assert encoding.read_tags(tmp_path / "got") == {"title": "A tune"}
    (folder,) = client.folder()
    assert [path.name for path in folder.iterdir()] == ["mixture.wav"]  # what was sent is gone


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("other/pieces/mixture?start=0&count=1", "no longer kept"),
        ("{song}/pieces/vocals?start=0&count=1", "no such stem"),
        ("{song}/pieces/..%2Fmixture?start=0&count=1", None),
        ("{song}/pieces/mixture?start=0&count=900000", "no such piece"),
        ("{song}/pieces/mixture?start=-1&count=1", "number of samples"),
        ("{song}/pictures/mixture.webp", "no such picture"),
        ("{song}/files/mixture.exe", "no format exe"),
        ("{song}/files/mix.wav?mixture=7", "from -60 to 6 dB"),
        ("{song}/files/mix.wav?mixture=nan", "from -60 to 6 dB"),
        ("{song}/files/mix.wav?mixture=-60", "nothing to download"),
    ],
)
def test_wrong_questions(
    make_client: Callable[..., Client], tone: Path, address: str, sentence: str | None
) -> None:
    client = make_client()
    song = client.give(tone).json()["song"]
    answer = client.http.get(f"{client.songs.address}/{address.format(song=song)}")
    assert answer.status_code == 404
    assert sentence is None or sentence in answer.text
    assert not PATHS.search(answer.text)


def test_what_is_too_much_is_refused_and_leaves_nothing(
    make_client: Callable[..., Client], tone: Path, tmp_path: Path, song_path: Path
) -> None:
    def refused(client: Client, given: Path | bytes, sentence: str, status: int = 422) -> None:
        answer = client.give(given, "a.mp4")
        assert answer.status_code == status
        assert sentence in answer.json()["error"]
        assert not PATHS.search(answer.text)
        assert client.folder() == []

    client = make_client(megabytes=0.1)
    refused(client, tone, "The file is larger than 0.1 MB", 413)
    chunks = client.http.post(client.songs.address, content=(bytes(50_000) for _ in range(9)))
    assert "larger than 0.1 MB" in chunks.json()["error"]  # though nobody said how large it would be
    assert client.folder() == []
    # With a length in its header, and without one.
    refused(make_client(minutes=1 / 120), tone, "a.mp4 is longer than 0.00833333 minutes")
    refused(make_client(minutes=1 / 20), song_path, "a.mp4 is longer than 0.05 minutes")
    soundfile.write(tmp_path / "many.flac", np.zeros((RATE, 8)), RATE)
    client = make_client(minutes=1 / 40)
    assert (tmp_path / "many.flac").stat().st_size < 50_000  # silence
    refused(client, tmp_path / "many.flac", "a.mp4 takes more than 1 MB when it is decoded.")
    refused(client, b"", "a.mp4")
    refused(client, tone.read_bytes()[:100_000], "truncated")


def test_a_slash_in_what_is_wrong_is_no_path(make_client: Callable[..., Client], tmp_path: Path) -> None:
    client = make_client()
    song = client.songs._new("a.wav")
    for said, sentence in {
        f"{song.folder}/given is not audio: Input/output error": "a.wav is not audio: Input/output error.",
        "see /etc/passwd": "Something went wrong on the server. "
        "Details are in the terminal where the page was started.",
    }.items():
        assert client.songs.sentence(ValueError(said), song) == sentence


def test_an_mp3_is_decoded_as_by_the_command_line(make_client: Callable[..., Client], tmp_path: Path) -> None:
    """With half a frame before the first one, which only its name tells."""
    tone = 0.5 * np.sin(np.arange(RATE) / 10).astype(np.float32)[None]
    if "mp3" not in formats():
        pytest.skip("there is no ffmpeg here")
    with encoding.writers([tmp_path / "tone.mp3"], Encoding("mp3"), RATE, *tone.shape) as (write,):
        write(tone)
    content = (tmp_path / "tone.mp3").read_bytes()
    content = content[1_000:1_200] + content[content.index(b"\xff\xfb") :]
    (tmp_path / "cut.mp3").write_bytes(content)
    expected, _ = audio.read(tmp_path / "cut.mp3")
    client = make_client()
    answer = client.give(content, "Cut.MP3").json()
    assert answer["name"] == "Cut"
    (folder,) = client.folder()
    assert [path.name for path in folder.iterdir()] == ["mixture.wav"]
    np.testing.assert_array_equal(audio.read(folder / "mixture.wav")[0], expected)


def test_a_list_of_files_is_no_song(make_client: Callable[..., Client], tone: Path, tmp_path: Path) -> None:
    """Or else anybody could listen to any song on the machine."""
    from shutil import which

    if which("ffmpeg") is None:
        pytest.skip("there is no ffmpeg here")
    subprocess.run(["ffmpeg", "-v", "error", "-i", tone, tmp_path / "private.mp3"], check=True)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n{tmp_path}/private.mp3\n#EXT-X-ENDLIST\n"
    client = make_client()
    for given in (playlist, f"ffconcat version 1.0\nfile {tmp_path}/private.mp3\n"):
        answer = client.give(given.encode())
        assert answer.status_code == 422
        assert client.folder() == []


def test_an_upload_that_breaks_off_leaves_nothing(make_client: Callable[..., Client]) -> None:
    client = make_client()
    events = iter(
        [
            {"type": "http.request", "body": bytes(100_000), "more_body": True},
            {"type": "http.disconnect"},
        ]
    )

    async def receive() -> dict[str, Any]:
        event = next(events)
        if event["type"] == "http.disconnect":
            assert [path.stat().st_size for path in Path(client.songs._folder.name).glob("*/given")]
        return event

    async def send(message: dict[str, Any]) -> None:
        pass

    scope = {"type": "http", "method": "POST", "path": f"/{client.songs.address}", "root_path": ""}
    call = client.http.app({**scope, "query_string": b"name=a", "headers": []}, receive, send)
    with ThreadPoolExecutor(1) as pool:  # the browser's loop runs in this thread
        pool.submit(asyncio.run, call).result()
    assert client.folder() == []


def test_songs_go_when_there_are_too_many_or_nobody_uses_them(
    make_client: Callable[..., Client], tone: Path
) -> None:
    client = make_client(kept_megabytes=2.5)  # a second of stereo with two stems takes 1.06 MB
    first, second = (client.give(tone).json()["song"] for _ in range(2))
    client.songs.get(first)
    with client.songs.working_on(client.songs.get(second)):
        client.songs.get(first)
        third = client.give(tone).json()["song"]  # in the place of the first: somebody works on the second
    assert len(client.folder()) == 2
    with pytest.raises(Refused, match="no longer kept"):
        client.songs.get(first)
    client.songs.get(second), client.songs.get(third)
    with pytest.raises(Cancelled), client.songs.working_on(client.songs.get(third)):
        client.songs.stop(third)
        raise FileNotFoundError("of a song that is gone")  # which follows from that
    with pytest.raises(Cancelled), client.songs.working_on(client.songs.get(third)):
        client.songs.stop(third)  # of a separator that can't be interrupted

    client = make_client(idle_minutes=0.01)
    client.give(tone)
    assert len(client.folder()) == 1
    deadline = time.monotonic() + 10
    while client.folder() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert client.folder() == []


def test_one_works_and_the_others_wait_in_the_order_of_asking(make_client: Callable[..., Client]) -> None:
    songs = make_client(jobs=1).songs
    order: list[int] = []
    told: list[tuple[int, int]] = []
    cancel = threading.Event()

    def work(number: int) -> None:
        with songs.turn(tell=lambda before: told.append((number, before))):
            order.append(number)

    def impatient() -> None:
        with pytest.raises(Cancelled), songs.turn(cancel):
            pytest.fail("it was not its turn")

    threads = []
    with songs.turn():
        for target in (lambda: work(1), impatient, lambda: work(2)):
            threads.append(threading.Thread(target=target))
            threads[-1].start()
            deadline = time.monotonic() + 10
            while len(songs._line) < len(threads) + 1 and time.monotonic() < deadline:
                time.sleep(0.01)
        cancel.set()
        threads[1].join(10)
        assert order == []
    for thread in threads:
        thread.join(10)
    assert order == [1, 2]
    assert {(1, 1), (2, 3)} <= set(told)


def test_what_a_killed_page_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    alive = Songs()
    dead = tmp_path / "svs-unet-page-dead"
    (dead / "song").mkdir(parents=True)
    for folder in (dead, Path(alive._folder.name)):
        os.utime(folder, (0, 0))
    Songs().close()
    assert [str(path) for path in tmp_path.iterdir()] == [alive._folder.name]
    alive.close()
    assert list(tmp_path.iterdir()) == []


def test_pieces_are_as_long_as_the_script_asks_for() -> None:
    script = (Path(page.__file__).parent / "page.js").read_text()
    assert float(re.search(r"const PIECE = (\d+);", script)[1]) <= PIECE_SECONDS  # type: ignore[index]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--weights", "nothing.pth"], "no such file: nothing.pth"),
        (["--weights", __file__], "is no checkpoint"),
        (["--host", "192.0.2.1"], "can't listen at 192.0.2.1: cannot assign requested address"),
        (["--max-minutes", "0"], "'--max-minutes'"),
        (["--port", "99999"], "'--port'"),
    ],
)
def test_a_wrong_option_is_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["serve", *arguments]) == 2
    errors = capsys.readouterr().err
    assert sentence in errors
    assert errors.count("\n") == 1


def test_without_gradio(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert cli.main(["serve"]) == 2
    assert capsys.readouterr().err == (
        "svs-unet: the page needs gradio: pip install 'svs_unet_plugin[gradio]'\n"
    )
