"""A page in the browser: a song goes in, its stems are heard in time with each other, seen and downloaded.

`serve` shows it for this package's networks; `build` and `launch` make it for anything that separates.
"""

from __future__ import annotations

import asyncio
import html
import json
import logging
import os
import resource
import secrets
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from svs_unet_plugin.page.guard import Guard, close_silent, own_names
from svs_unet_plugin.page.songs import (
    GAIN_DB,
    MASK,
    MIX,
    MIXTURE,
    Limits,
    Refused,
    Song,
    Songs,
    formats,
)
from svs_unet_plugin.separator import Cancelled, Progress, Separator
from svs_unet_plugin.spectrogram import lowest_hz
from svs_unet_plugin.threads import limited_threads
from svs_unet_plugin.weights import bundled

if TYPE_CHECKING:
    import gradio

VIEWS = (1, 3, 5, 8)
"""Numbers of window lengths that the page offers."""

WAITING = 10
"""Songs that may be separated or wait for it; as many more wait for that, and others are sent away."""

MANY_FILES = 10_240
"""Files and connections that `serve` wants to be allowed at a time; macOS takes no larger number."""

Source = Literal["upload", "microphone"]

_FOLDER = Path(__file__).parent


class Separate(Protocol):
    """Separates a song for the page.

    Args:
        song: its mixture is there; the stems are written into its folder.
        weights: a name that `Choices` has, or "".
        views: window lengths to average over.
        progress: is told the seconds of audio that are done, and of how many.
        cancel: ends the work, with `svs_unet_plugin.separator.Cancelled`.

    Returns:
        A WAV file for each stem, as long as the mixture and of its rate and channels.
    """

    def __call__(
        self, song: Song, weights: str, views: int, progress: Progress, cancel: threading.Event
    ) -> Mapping[str, Path]: ...


@dataclass(frozen=True)
class Choices:
    """What a person may choose on the page.

    Args:
        weights: names of weights, with what people read; the first is the default. None: no such choice.
        views: window lengths to average over; none: no such choice.
        sources: where a song may come from.
    """

    weights: Mapping[str, str]
    views: Sequence[int] = VIEWS
    sources: Sequence[Source] = ("upload", "microphone")


def import_gradio() -> Any:
    """The package gradio, without its telemetry.

    Raises:
        ImportError: if it is not installed.
    """
    try:
        import gradio
    except ImportError as error:
        raise ImportError("the page needs gradio: pip install 'svs_unet_plugin[gradio]'") from error
    return gradio


def build(songs: Songs, separate: Separate, choices: Choices, title: str, about: str) -> gradio.Blocks:
    """Make the page, without showing it; see `launch`.

    Args:
        songs: where the page keeps what it is given.
        separate: does the work.
        choices: what a person may choose.
        title: of the page.
        about: a sentence below it.

    Raises:
        ImportError: if gradio is not installed.
    """
    gr = import_gradio()

    def run(
        song_id: str,
        weights: str = "",
        views: float = 1,
        progress: Any = gr.Progress(),  # noqa: B008, which is how gradio finds out that it is wanted
    ) -> tuple[Any, Any]:
        if not song_id:
            return _said("Choose or record a song first, and wait until it is here."), gr.skip()
        try:
            song = songs.get(song_id)
        except Refused as error:
            return _said(str(error)), gr.skip()

        def wait(before: int) -> None:
            progress(0, desc=f"Waiting for {before} other song{'s' if before > 1 else ''}")

        def tell(done: float, total: float) -> None:
            progress(done / max(total, 1e-9), desc=f"Separating: {_clock(done)} of {_clock(total)}")

        try:
            with songs.working_on(song) as cancel, songs.turn(cancel, wait):
                progress(0, desc="Separating")
                stems = separate(song, weights, int(views), tell, cancel)
                progress(1, desc="Drawing the spectrograms")
                song.stems = {MIXTURE: song.stems[MIXTURE], **stems}
                songs.draw(song)
        except Cancelled:
            return _said("Stopped."), gr.skip()
        except Exception as error:
            return _said(songs.sentence(error, song)), gr.skip()
        return "", _mixer(songs, song)

    def stop(song_id: str) -> str:
        songs.stop(song_id)
        return _said("Stopping as soon as possible.")

    def ready() -> tuple[Any, Any]:
        return gr.update(visible=True), gr.update(visible=False)

    def busy() -> tuple[Any, Any, str]:
        return gr.update(visible=False), gr.update(visible=True), ""

    with gr.Blocks(title=title, analytics_enabled=False) as page:
        gr.HTML(
            f"<header><h1>{html.escape(title)}</h1><p>{html.escape(about)}</p></header>",
            elem_id="head",
            apply_default_css=False,
        )
        given = {
            "address": songs.address,
            "megabytes": songs.limits.megabytes,
            "minutes": songs.limits.minutes,
            "sources": list(choices.sources),
        }
        gr.HTML(_element("svs-song", given), elem_id="song", apply_default_css=False)
        # The script of the page puts the song's name here when a button is pressed.
        song_id = gr.Textbox(visible=False)
        with gr.Row(elem_id="choices", visible=bool(choices.weights or choices.views)):
            weights = gr.Dropdown(
                [(label, name) for name, label in choices.weights.items()] or [("", "")],
                value=next(iter(choices.weights), ""),
                label="Weights",
                info="Which network separates the song",
                visible=bool(choices.weights),
                filterable=False,
                min_width=280,
            )
            views = gr.Radio(
                list(choices.views) or [1],
                value=next(iter(choices.views), 1),
                label="Views",
                info="How often it looks at the song: 3 are a little better than 1, and take 3 times as long",
                visible=bool(choices.views),
                min_width=280,
            )
        start = gr.Button("Separate", variant="primary", size="lg", elem_id="start")
        end = gr.Button("Stop", variant="stop", size="lg", elem_id="stop", visible=False)
        message = gr.HTML(elem_id="message", apply_default_css=False)
        mixer = gr.HTML(elem_id="mixer", min_height=120, apply_default_css=False)

        which = "(song, ...others) => [window.svsAtWork = window.svsSong?.id ?? song, ...others]"
        at_work = "(song) => [window.svsAtWork ?? song]"  # another one may have been given since
        buttons = [start, end]
        quick: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        begin = start.click(busy, outputs=[*buttons, message], **quick)
        work = begin.then(
            run,
            [song_id, weights, views],
            [message, mixer],
            js=which,
            api_name="separate",
            concurrency_limit=WAITING,  # songs.turn() lets them work one a CPU
            show_progress_on=mixer,
        )
        work.success(ready, outputs=buttons, **quick)
        work.failure(ready, outputs=buttons, **quick)
        end.click(stop, song_id, message, js=at_work, **quick)
    page.queue(max_size=WAITING)
    return page


def launch(page: gradio.Blocks, songs: Songs, *, names: Collection[str] = (), **arguments: Any) -> Any:
    """Show a page that `build` made. It listens on this machine alone, and asks no other one for anything.

    Args:
        page, songs: which belong together; the songs go when the server ends, or can't begin.
        names: by which people reach the page, besides this machine's own.
        **arguments: for ``gradio.Blocks.launch``, before what is taken here.

    Returns:
        What ``launch`` returns: the app, the local address, the public address.
    """
    gr = import_gradio()
    from starlette.middleware import Middleware

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        watch = asyncio.create_task(close_silent(lambda: getattr(page, "server", None)))
        yield
        watch.cancel()
        songs.close()

    theme = gr.themes.Default(
        primary_hue="indigo",
        neutral_hue="slate",
        # No fonts from elsewhere.
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
    )
    known = {*names, *own_names(arguments.get("server_name") or "127.0.0.1")}
    # A public link is for everybody who has it.
    guard = Middleware(Guard, songs.address, None if arguments.get("share") else known)
    app = {
        "routes": songs.routes(),
        "middleware": [guard],
        "lifespan": lifespan,
        # FastAPI's pages about the interface take their scripts from elsewhere.
        **dict.fromkeys(("docs_url", "redoc_url", "openapi_url")),
    }
    script = (_FOLDER / "page.js").read_text(encoding="utf-8")
    with _no_proxy_to_itself():
        try:
            return page.launch(
                **{
                    "share": False,
                    "server_name": "127.0.0.1",
                    "ssr_mode": False,
                    "pwa": False,
                    "mcp_server": False,
                    "enable_monitoring": False,
                    "run_history": False,
                    "footer_links": [],
                    "num_workers": 0,
                    "theme": theme,
                    "css": (_FOLDER / "page.css").read_text(encoding="utf-8"),
                    "head": f"<script>{script}</script>",
                    "app_kwargs": app,
                    **arguments,
                }
            )
        except BaseException:  # the server, which closes the songs when it ends, may not have begun
            page.close(verbose=False)
            songs.close()
            raise


def serve(
    host: str = "127.0.0.1",
    port: int | None = None,
    *,
    limits: Limits | None = None,
    weights: Sequence[Path] = (),
    names: Collection[str] = (),
    open_browser: bool = False,
    ready: Callable[[str], object] = print,
) -> None:
    """Show the page for this package's networks, until the process is told to end.

    Each song is separated on one CPU, and as many songs at a time as there are CPUs.

    Args:
        host: the address to listen at; "0.0.0.0" for all of this machine's.
        port: to listen at; by default the first free one from 7860 up.
        limits: what songs are taken.
        weights: checkpoints to offer besides the bundled weights.
        names: by which people reach the page, besides this machine's own.
        open_browser: also open the page in a browser.
        ready: is told the page's address.

    Raises:
        ImportError: if gradio is not installed.
        FileNotFoundError: if a checkpoint is missing.
        ValueError: if a checkpoint can't be used, or two have one name.
        OSError: if the port is taken, or the address none of this machine's.
    """
    import_gradio()
    _check_address(host, port)
    _allow_many_files()
    files = _weights(weights)

    @lru_cache(maxsize=4)
    def separator(name: str, views: int) -> Separator:
        return Separator(files[name], views=views)

    def separate(
        song: Song, weights: str, views: int, progress: Progress, cancel: threading.Event
    ) -> Mapping[str, Path]:
        mixture = song.stems[MIXTURE]
        return separator(weights, views).separate_file(mixture, song.folder, progress=progress, cancel=cancel)

    with limited_threads(1):
        for name in files:
            separator(name, VIEWS[0])  # so that a file which can't be used is found now
        songs = Songs(limits)
        labels = {name: _LABELS.get(name, name) for name in files}
        page = build(songs, separate, Choices(labels), "Vocals and accompaniment", ABOUT)
        try:
            launched = launch(
                page,
                songs,
                names=names,
                server_name=host,
                server_port=port,
                inbrowser=open_browser,
                prevent_thread_lock=True,
                quiet=True,
            )
            ready(launched[1])
            while page.is_running:
                time.sleep(0.2)
        finally:
            songs.close()
            if getattr(page, "server", None) is not None:
                page.server.force_exit = True  # without waiting for browsers to leave,
                logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # or words about each
            page.close(verbose=False)


ABOUT = "Hear the voice and the band apart. Your song stays on the computer that runs this page."

_LABELS = {
    "vocals": "vocals (the default)",
    "small": "small (faster, nearly as good)",
    "free": "free (of data under free licences alone)",
}
"""What people read of bundled weights besides their name."""


@contextmanager
def _no_proxy_to_itself() -> Iterator[None]:
    """Gradio asks its own server whether it is there, which no proxy can answer."""
    name = "no_proxy" if "no_proxy" in os.environ else "NO_PROXY"
    before = os.environ.get(name)
    os.environ[name] = ",".join(filter(None, [before, "127.0.0.1", "localhost"]))
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _check_address(host: str, port: int | None) -> None:
    """Raise OSError, with the reason, if nothing can listen there."""
    bare = host.strip("[]")
    family = socket.AF_INET6 if ":" in bare else socket.AF_INET
    try:
        socket.create_server((bare, port or 0), family=family).close()
    except OSError as error:
        where = host if port is None else f"{host}, port {port}"
        reason = (error.strerror or str(error)).partition(" (")[0].lower()  # and the address once more
        raise OSError(f"can't listen at {where}: {reason}") from error


def _allow_many_files() -> None:
    """As many as the system lets a process have, of which an upload has two and a browser some more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, MANY_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _weights(more: Sequence[Path]) -> dict[str, str | Path]:
    """The bundled weights, the default ones first, and others by their file's name."""
    found: dict[str, str | Path] = {name: name for name in bundled()}
    for path in more:
        if not path.is_file():
            raise FileNotFoundError(f"no such file: {path}")
        if path.stem in found:
            raise ValueError(f"two of the weights are called {path.stem}: rename {path}")
        found[path.stem] = path
    return found


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def _element(name: str, content: object) -> str:
    """An element that the page's script fills, with what it needs to know."""
    return f'<{name} data-given="{html.escape(json.dumps(content))}"></{name}>'


def _said(sentence: str) -> str:
    return f'<p class="svs-said" role="alert">{html.escape(sentence)}</p>'


def _mixer(songs: Songs, song: Song) -> str:
    named = {name: name.replace("-", " ").capitalize() for name in song.stems}
    return _element(
        "svs-mixer",
        {
            "address": f"{songs.address}/{song.id}",
            "run": secrets.token_hex(4),  # pictures of an earlier one are not to be shown
            "name": song.name,
            "rate": song.sample_rate,
            "channels": song.channels,
            "samples": song.samples,
            "stems": named,
            "mixture": MIXTURE,
            "mix": MIX,
            "mask": MASK if "vocals" in song.stems else None,
            "hz": [lowest_hz(song.sample_rate), song.sample_rate / 2],
            "decibels": GAIN_DB,
            "formats": formats(),
        },
    )
