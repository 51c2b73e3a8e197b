import base64
import csv
import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import museval
import numpy as np
import pytest
import soundfile

from svs_unet_plugin.evaluation import report, store
from svs_unet_plugin.evaluation.report import Fact, charts, excerpts, tables, write_report
from svs_unet_plugin.evaluation.store import System
from svs_unet_plugin.training.history import Losses, write_losses

RATE = 44_100
HOSTILE = "HPSS </script><img src=x onerror=alert(1)> \"'&amp; and more than a narrow screen has room for"
"""A system's name that is none of the page's own text."""
SYSTEMS = {
    System("u-net", "U-Net", "trained", 9_820_065, 0.42, 912.0): 8.1,
    System("u-net-blstm", "U-Net + BLSTM", "trained", 11_400_000, 0.61, 955.0): 7.9,
    System("repet-sim", "REPET-SIM", "classical", None, 5.2, 640.0): 2.3,
    System("hpss", HOSTILE, "classical", None, 3.3, 580.0): 1.4,
    System("irm", "Ideal ratio mask", "oracle", None, 1.9, 700.0): 10.7,
    System("mixture", "Mixture", "bound", None, 0.0, 400.0): -1.2,
}
SI_SDR = [f"{level + 0.5:.2f}".replace("-", "−") for level in sorted(SYSTEMS.values(), reverse=True)]
"""Medians in a chart, from the best to the worst."""
WITH_DRUMS = ("u-net-blstm", "irm", "mixture")
"""Systems with a score of the drums as well."""


@pytest.fixture(scope="session")
def make_results(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a folder of results out of numbers: the spread is noise of 1 dB."""

    def make(tracks: int = 4, audible: int = 1) -> Path:
        folder = tmp_path_factory.mktemp("results")
        generator = np.random.default_rng(0)
        for system, level in SYSTEMS.items():
            store.write_system(folder, system)
            for i in range(tracks):
                track = f"Band & Co - Song <{i + 1}>"
                track_store = museval.TrackStore(track)
                sources = ["vocals", "accompaniment", *(["drums"] if system.id in WITH_DRUMS else [])]
                for j, source in enumerate(sources):
                    values = {
                        metric: list(level + 3 * j + generator.standard_normal(3))
                        for metric in store.BSS_METRICS
                    }
                    track_store.add_target(source, values)
                path = store.bss_file(folder, system.id, track)
                path.parent.mkdir(exist_ok=True)
                track_store.save(path)
                scale = {"vocals": {"SI-SDR": [level, level + 1], "SI-SDRi": [3.0, 3.5]}}
                store.write_scale(folder, system.id, track, scale)
            if system.kind == "trained":
                falling = tuple(0.01 + 0.02 * 0.8**epoch for epoch in range(20))
                write_losses(
                    store.losses_file(folder, system.id), Losses(falling, tuple(1.2 * v for v in falling))
                )
        time = np.arange(RATE) / RATE
        for i in range(audible):
            track = f"Band & Co - Song <{i + 1}>"
            stems = {
                "vocals": 0.3 * np.sin(2 * np.pi * 440 * time) * np.ones((2, 1)),
                "accompaniment": 0.1 * generator.standard_normal((2, RATE)),
            }
            stems["mixture"] = sum(stems.values())
            for source, samples in stems.items():
                store.write_audio(folder, store.REFERENCE, track, source, samples, RATE)
                if source != "mixture":
                    for system in SYSTEMS:
                        store.write_audio(folder, system.id, track, source, samples, RATE)
        return folder

    return make


@pytest.fixture(scope="session")
def results(make_results: Callable[..., Path]) -> Path:
    return make_results()


@pytest.fixture(scope="session")
def written(results: Path, tmp_path_factory: pytest.TempPathFactory) -> report.Report:
    facts = [Fact("Songs", "4, synthetic"), Fact("Machine", "2 cores")]
    return write_report(results, tmp_path_factory.mktemp("report"), "A <small> comparison", facts)


def test_nothing_from_elsewhere(written: report.Report) -> None:
    """No address but those that a reader may follow, one copy of Vega, and names stay text."""
    page = written.page.read_text()
    assert page.count(charts.vega_javascript()) == 1
    page = page.replace(charts.vega_javascript(), "")
    addresses = re.findall(r"""\b(?:src|href|data-sound)="([^"]*)\"""", page)
    assert len(addresses) > 20
    assert all(address.startswith("data:") for address in addresses)
    assert not re.findall(r"url\(|@import|fetch\(|https?:", page.replace("https://vega.github.io/schema", ""))
    assert "<h1>A &lt;small&gt; comparison</h1>" in page
    assert "Song <" not in page
    assert "<img src=x" not in page


def test_the_same_results_give_the_same_page(results: Path, written: report.Report, tmp_path: Path) -> None:
    facts = [Fact("Songs", "4, synthetic"), Fact("Machine", "2 cores")]
    again = write_report(results, tmp_path / "new", "A <small> comparison", facts)
    # In parts, so that a difference is named: Vega, a chart, a picture, a sound.
    assert again.page.read_text().split('"') == written.page.read_text().split('"')
    assert again.csv.read_bytes() == written.csv.read_bytes()
    assert again.markdown.read_bytes() == written.markdown.read_bytes()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "report.html",
        "scores.csv",
        "scores.md",
    ]


def test_medians_in_the_tables_are_musevals(results: Path) -> None:
    """museval's own median over windows and tracks stands in the table, to its last digit."""
    systems = store.read_systems(results)
    scores = store.read_scores(results)
    rows = {}
    for source in ("vocals", "accompaniment", "drums"):
        table = tables.score_table(systems, scores, source)
        for row in (*table.separators, *table.bounds):
            for column, cell in zip(table.columns, row.cells, strict=True):
                rows[row.system.id, source, column] = cell.text.replace("−", "-")
    for system in systems:
        musevals = museval.EvalStore()
        musevals.add_eval_dir(results / system.id)
        for (source, metric), value in musevals.agg_frames_tracks_scores().items():
            assert rows.pop((system.id, source, metric)) == f"{value:.2f}"
    assert {metric for _, _, metric in rows} == {"SI-SDR", "SI-SDRi"}


def test_the_best_is_marked_among_separators_only(results: Path) -> None:
    systems = store.read_systems(results)
    table = tables.score_table(systems, store.read_scores(results), "vocals")
    assert [row.system.id for row in table.separators][-1] == "hpss"
    assert [row.system.id for row in table.bounds] == ["irm", "mixture"]
    for i in range(len(table.columns)):
        column = [float(row.cells[i].text.replace("−", "-")) for row in table.separators]
        best = [row.cells[i].best for row in table.separators]
        assert best == [value == max(column) for value in column]
    assert not any(cell.best for row in table.bounds for cell in row.cells)
    costs = tables.cost_table(systems)
    assert [[cell.text for cell in row.cells if cell.best] for row in costs.separators] == [
        ["0.42"],  # the mixture's 0 s don't count
        [],
        ["580"],
        [],
    ]


def test_numbers_as_text(results: Path, written: report.Report) -> None:
    scores = store.read_scores(results)
    with written.csv.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(scores)
    for row, score in zip(rows, scores.itertuples(), strict=True):
        assert (row["system"], row["track"], row["metric"]) == (score.system, score.track, score.metric)
        assert float(row["score"]) == pytest.approx(score.score, abs=1e-5)
    text = written.markdown.read_text()
    assert "## Accompaniment" in text
    assert "| U-Net | " in text and "| *Ideal ratio mask* | " in text
    sdr = float(re.search(r"\| U-Net \| \**(\S+?)\** \|", text)[1])  # type: ignore[index]
    of_unet = scores[(scores.system == "u-net") & (scores.source == "vocals") & (scores.metric == "SDR")]
    assert sdr == pytest.approx(of_unet.score.median(), abs=0.005)


@pytest.mark.parametrize(
    ("tracks", "real", "shown"), [(50, True, True), (50, False, False), (49, True, False)]
)
def test_published_scores_only_beside_the_real_test_split(
    tracks: int, real: bool, shown: bool, make_results: Callable[..., Path], tmp_path: Path
) -> None:
    written = write_report(make_results(tracks, 0), tmp_path, "Title", musdb18_test=real)
    for path in (written.page, written.markdown):
        text = path.read_text()
        assert ("Published scores" in text) is shown
        assert ("JY3" in text) is shown


def test_what_cannot_be_compared_is_stated(make_results: Callable[..., Path], tmp_path: Path) -> None:
    results = make_results(3, 0)
    store.bss_file(results, "hpss", "Band & Co - Song <2>").unlink()
    store.scale_file(results, "hpss", "Band & Co - Song <2>").unlink()
    store.write_system(results, System("silent", "Silent", "classical"))
    page = write_report(results, tmp_path, "Title").page.read_text()
    assert "fewer than all 3 tracks, and so not to be compared with the others: HPSS &lt;/script" in page
    assert "Without scores: Silent." in page


def test_a_full_page_leaves_whole_tracks_out(
    make_results: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = make_results(2, 2)
    whole = write_report(results, tmp_path, "Title").page.stat().st_size
    systems = store.read_systems(results)
    played, left_out = excerpts.read_excerpts(results, systems, 10**9)
    assert not left_out
    size = sum(len(player.sound) + len(player.picture) for part in played for player in part.players)
    monkeypatch.setattr(report, "MEDIA_BYTES", size - 1)
    page = write_report(results, tmp_path, "Title").page
    assert "nothing to hear of Band &amp; Co - Song &lt;2&gt;" in page.read_text()
    assert page.stat().st_size < whole - size / 3


def test_no_results(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no results"):
        write_report(tmp_path, tmp_path / "out", "Title")
    store.write_system(tmp_path, System("a", "A", "classical"))
    with pytest.raises(ValueError, match="holds no scores"):
        write_report(tmp_path, tmp_path / "out", "Title")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("rate", [44_100, 8_192])
def test_sound_is_what_was_given(rate: int) -> None:
    time = np.arange(rate) / rate
    tone = np.stack([0.5 * np.sin(2 * np.pi * 440 * time), 0.1 * np.sin(2 * np.pi * 1_000 * time)])
    kind, content = excerpts.sound(tone.astype(np.float32), rate).split(",")
    assert kind == "data:audio/mpeg;base64"
    decoded, decoded_rate = soundfile.read(io.BytesIO(base64.b64decode(content)))
    middle = decoded[len(decoded) // 4 :][:4_096] * np.hanning(4_096)[:, None]
    spectrum = np.abs(np.fft.rfft(middle, axis=0))
    bin_hz = decoded_rate / 4_096
    assert spectrum[:, 0].argmax() * bin_hz == pytest.approx(440, abs=bin_hz)
    assert spectrum[:, 1].argmax() * bin_hz == pytest.approx(1_000, abs=bin_hz)
    # MP3 changes little of a level; the ratio is 5.
    assert spectrum[:, 0].max() / spectrum[:, 1].max() == pytest.approx(5, rel=0.1)


def test_a_tone_is_a_line_at_its_place() -> None:
    from PIL import Image

    tone = 0.5 * np.sin(2 * np.pi * 1_000 * np.arange(RATE) / RATE)[None]
    loudest = float(excerpts._magnitudes(tone.astype(np.float32), RATE).max())
    uri = excerpts.picture(tone.astype(np.float32), RATE, loudest)
    image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert image.size == excerpts.PICTURE_SIZE
    rows = np.asarray(image.convert("L"), dtype=float).mean(axis=1)
    octaves = np.log2(excerpts.HIGHEST_HZ / excerpts.LOWEST_HZ)
    expected = np.log2(excerpts.HIGHEST_HZ / 1_000) / octaves * len(rows)
    assert rows.argmax() == pytest.approx(expected, abs=3)
    silence = excerpts.picture(np.zeros((1, RATE), np.float32), RATE, loudest)
    dark = Image.open(io.BytesIO(base64.b64decode(silence.partition(",")[2])))
    assert np.asarray(dark.convert("L")).max() < 16


def _lightness(colour: str) -> float:
    """From 0 to 255, of a colour as CSS computes it."""
    return float(np.mean([int(part) for part in re.findall(r"\d+", colour)[:3]]))


AS_WIDE_AS_THE_SCREEN = """() => document.documentElement.scrollWidth <= innerWidth
    && [...document.querySelectorAll(".chart")].every((chart) =>
        Math.abs(chart.clientWidth - chart.firstChild.getBoundingClientRect().width) < 1)"""
"""Whether every chart is as wide as its place, and nothing is wider than the screen."""


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(browser: Any, written: report.Report, width: int, scheme: str) -> None:
    """Without a network: nothing in the console, nothing wider than the screen, and all of it works."""
    from playwright.sync_api import expect

    page = browser.new_page(viewport={"width": width, "height": 850}, color_scheme=scheme, offline=True)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("requestfailed", lambda request: said.append(request.url[:80]))
    page.goto(written.page.as_uri())
    page.wait_for_selector("#losses svg")
    page.wait_for_function(AS_WIDE_AS_THE_SCREEN)
    for chart in page.locator(".chart").all():
        assert chart.get_attribute("role") == "graphics-document"
        assert len(chart.get_attribute("aria-label")) > 40

    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (_lightness(background) > 200) is (scheme == "light")
    label = page.locator("#distribution .role-axis-label text").last
    assert (_lightness(label.evaluate("label => getComputedStyle(label).fill")) < 130) is (scheme == "light")

    # A box a system with its median as in the table, and a dot a track.
    boxes, dots = (
        page.locator("#distribution .boxes_marks path"),
        page.locator("#distribution .tracks_marks path"),
    )
    assert boxes.count() == len(SYSTEMS)
    assert dots.count() == 4 * len(SYSTEMS)
    drawn = page.locator("#distribution .numbers_marks text").all_text_contents()
    assert sorted(drawn) == sorted(page.locator("[data-of=vocals] td:nth-child(2)").all_text_contents())
    assert page.locator("#seconds .points_marks path").count() == len(SYSTEMS) - 1
    assert page.locator("#parameters .points_marks path").count() == 2
    assert page.locator("#parameters .levels_marks line").count() == 2
    assert page.locator("#losses .mark-line path").count() == 2

    # A track is marked with all systems, and its name and the system's are text.
    dot = page.locator("#distribution .tracks_marks path[aria-label^=HPSS]").last
    dot.hover(force=True)
    tooltip = page.locator("#vg-tooltip-element.visible")
    expect(tooltip).to_contain_text(f"{HOSTILE}, Band & Co - Song <")
    assert tooltip.text_content() in [mark.get_attribute("aria-label") for mark in dots.all()]
    expect(page.locator("#distribution .tracks_marks path[opacity='1']")).to_have_count(len(SYSTEMS))
    page.mouse.move(0, 0)

    source, metric = (page.get_by_role("combobox", name=name) for name in ("Source", "Metric"))
    title = page.locator("#distribution .role-title-text text")
    assert page.locator("h3:visible").all_inner_texts()[0] == "Vocals"
    source.select_option("Drums")
    metric.select_option("SIR")
    expect(title).to_have_text("SIR in dB of every track, drums")
    expect(boxes).to_have_count(len(WITH_DRUMS))
    expect(page.locator("#parameters .points_marks path")).to_have_count(1)
    assert page.locator("h3:visible").all_inner_texts() == ["Drums"]
    metric.select_option("SI-SDR")
    expect(title).to_have_text("No system has SI-SDR of drums")
    expect(boxes).to_have_count(0)
    source.select_option("Vocals")
    # The best system comes first, whatever is chosen.
    expect(title).to_have_text("SI-SDR in dB of every track, vocals")
    expect(page.locator("#distribution .numbers_marks text")).to_have_text(SI_SDR)
    assert page.locator("#distribution .role-axis-label text").all_text_contents()[-1] == "Mixture"
    for other in (1670 - width, width):  # narrow becomes wide, and wide narrow
        page.set_viewport_size({"width": other, "height": 850})
        page.wait_for_function(AS_WIDE_AS_THE_SCREEN)

    # Every sound can be decoded, and lasts as long as it should.
    lengths = page.evaluate(
        """Promise.all([...document.querySelectorAll(".player")].map((player) => new Promise((done) => {
            const sound = new Audio(player.dataset.sound);
            sound.onloadedmetadata = () => done(sound.duration);
            sound.onerror = () => done(null);
        })))"""
    )
    assert len(lengths) == 2 * (2 + len(SYSTEMS) - 1)
    assert all(length == pytest.approx(1.0, abs=0.1) for length in lengths)
    pictures = page.evaluate("[...document.images].map((image) => image.naturalWidth || image.loading)")
    assert set(pictures) <= {excerpts.PICTURE_SIZE[0], "lazy"}
    players = page.locator(".player:visible")
    players.nth(2).click()
    page.wait_for_selector(".player.playing")
    assert "playing" in players.nth(2).get_attribute("class")
    players.nth(3).click()
    page.wait_for_function("document.querySelectorAll('.player')[3].classList.contains('playing')")
    assert page.locator(".player.playing").count() == 1
    assert said == []
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{scheme}-{width}.png", full_page=True)
    page.close()
