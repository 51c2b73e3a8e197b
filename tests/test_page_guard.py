"""What the page does not answer, and how it bears many at once."""

import asyncio
import http.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.page_load import Server, loaded, serving
from svs_unet_plugin.page.guard import MOST_BYTES, Guard, close_silent, own_names
from svs_unet_plugin.page.songs import Songs

pytest.importorskip("gradio")
uvicorn = pytest.importorskip("uvicorn")
starlette_testclient = pytest.importorskip("starlette.testclient")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("scratch")) as server:
        yield server


def ask(server: Server, method: str, target: str, body: bytes = b"", **headers: str) -> tuple[int, str]:
    """Status and text of an answer, to a target that nothing tidies up."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.putrequest(method, target, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    answer = connection.getresponse()
    text = answer.read().decode(errors="replace")
    connection.close()
    return answer.status, text


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="it counts as Linux lets it")
def test_20_uploads_at_once(server: Server) -> None:
    """The short form of ``benchmarks/page_load.py``: eight kinds of clients, some of them slow or hostile."""
    load = asyncio.run(loaded(server, 20, patient=False))
    answers = {kind: set(found) for kind, found in load.answers.items()}
    assert answers.pop("too large for gradio") <= {"413", "closed"}  # it may be closed while more is sent
    assert answers.pop("too large, unsaid") <= {"422", "closed"}
    assert answers.pop("slow") <= {"still waiting", "408"}  # a machine that is busy takes its time
    assert answers.pop("silent") <= {"still waiting", "closed"}
    assert answers == {"song": {"200"}, "no song": {"422"}, "too large": {"413"}, "broken off": {"left"}}
    assert (load.files_left, load.songs_left) == (0, 0)
    before, after = load.peak_megabytes
    assert after - before < 120  # MB; it is 60 with 200 uploads, and was 380 before there was a guard
    assert load.threads < 30  # 8 with 2 CPUs; of all routes' 40, every one waited for its turn


SECRET = "kept for the owner"
ABOVE = [
    "../" * 8,
    "..%2f" * 8,
    "%2e%2e/" * 8,
    "..\\" * 8,
    "..%5c" * 8,
    "....//" * 8,
    "..;/" * 8,
    "%00/../" * 8,
]


def test_no_address_leads_to_a_file_of_the_machine(server: Server, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text(SECRET)
    at = str(secret).lstrip("/")
    places = [
        "/static/",
        "/assets/",
        "/svelte/",
        "/",
        "//",
        "/gradio_api/file=",
        "/gradio_api/file/",
        "/file=",
    ]
    places += [f"/{server.songs}/", f"/{server.songs}/a/files/", f"/{server.songs}/a/pieces/"]
    places += ["/gradio_api/proxy=", "/gradio_api/custom_component/a/client/component/"]
    targets = [place + above + at for place in places for above in ("", "/", *ABOVE)]
    targets += [f"/gradio_api/file{mark}{secret}" for mark in ("%3D", "=file://", "=%2F")]
    for target in targets:
        status, text = ask(server, "GET", target)
        assert SECRET not in text, target
        assert status in (400, 403, 404, 405), target


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/gradio_api/upload"),
        ("POST", "/gradio_api/upload?upload_id=a"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/vibe-edit/"),
        ("POST", "/gradio_api/vibe-starter-queries"),
        ("GET", "/gradio_api/proxy=https://example.org/"),
        ("GET", "/gradio_api/file=https://example.org/"),
        ("GET", "/gradio_api/stream/a/b/1/playlist.m3u8"),
        ("GET", "/gradio_api/dev/reload"),
        ("GET", "/monitoring"),
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
        ("POST", "/gradio_api/mcp/"),
    ],
)
def test_routes_of_gradio_that_the_page_does_not_need(server: Server, method: str, target: str) -> None:
    status, text = ask(server, method, target, b"{}" if method == "POST" else b"")
    assert (status, "Nothing is here." in text) == (404, True)


EVIL = {"Host": "evil.example:7860"}


@pytest.mark.parametrize(
    "headers", [EVIL, {"Host": "127.0.0.1.evil.example"}, {"Host": "localhost.evil.example"}]
)
def test_a_name_that_somebody_pointed_at_this_machine(server: Server, headers: dict[str, str]) -> None:
    """DNS rebinding: to the browser it is that somebody's own page, which may read all that it gets."""
    for method, target in (("GET", "/"), ("GET", "/config"), ("POST", f"/{server.songs}?name=a.wav")):
        status, text = ask(server, method, target, **headers)
        assert status == 403
        assert "is not served under the name" in text
        assert server.songs not in text


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "http://127.0.0.1"])
def test_another_page_in_the_browser(server: Server, origin: str) -> None:
    """Cross-site requests, those from other programs on this machine included."""
    forms = {"Content_Type": "text/plain", "Origin": origin}
    host = f"127.0.0.1:{server.port}"
    for method, target in (
        ("POST", "/gradio_api/queue/join"),
        ("POST", f"/{server.songs}?name=a.wav"),
        ("GET", "/"),
    ):
        status, text = ask(server, method, target, Host=host, **forms)
        assert (status, "not to other pages" in text) == (403, True)
    assert ask(server, "GET", "/", Host=host, Origin=f"http://{host}")[0] == 200


def test_names_that_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("socket.gethostname", lambda: "Studio.example.org")
    home = Route("/", lambda request: PlainTextResponse("here"))

    def status(names: Any, host: str, **headers: str) -> int:
        app = Starlette(routes=[home], middleware=[Middleware(Guard, "songs/a", names)])
        given = {"host": host, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return starlette_testclient.TestClient(app).get("/", headers=given).status_code

    assert own_names("127.0.0.1") == own_names("::1") == own_names("localhost") == set()
    assert own_names("0.0.0.0") == {"0.0.0.0", "studio.example.org", "studio.local"}
    for host in ("localhost", "127.0.0.1:7860", "[::1]:7860", "192.168.0.7", "page.localhost", "LOCALHOST:1"):
        assert status((), host) == 200, host
    assert status((), "studio.local") == 403
    for host in ("studio.local", "STUDIO.example.org:80", "studio.local."):
        assert status(own_names("0.0.0.0"), host) == 200, host
    assert status({"Music.lan"}, "music.lan:7860") == 200
    assert status(None, "abc.gradio.live", origin="https://elsewhere.example") == 200  # shared with everybody
    proxied = {"origin": "https://music.lan", "X_Forwarded_Host": "music.lan"}
    assert status((), "127.0.0.1:7860", **proxied) == 200
    assert status((), "127.0.0.1:7860", origin="https://music.lan") == 403
    Songs().close()


async def _answer(guard: Guard, path: str, bodies: list[bytes], pause: float) -> tuple[int, bytes]:
    """What a guard answers if a request's body comes in these parts."""
    left = list(bodies)
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(pause)
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "root_path": "", "query_string": b""}
    await guard({**scope, "headers": [(b"host", b"localhost")]}, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    return sent[0]["status"], sent[1]["body"]


def test_bodies_that_are_slow_or_large() -> None:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def count(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    app = Starlette(routes=[Route(path, count, methods=["POST"]) for path in ("/songs/a", "/login")])
    guard = Guard(app, "songs/a", patience=1.0)

    def answer(*given: Any) -> tuple[int, bytes]:
        return asyncio.run(_answer(guard, *given))

    assert answer("/songs/a", [b"a"] * 3, 0.01) == (200, b"3")
    # A byte in 0.3 s is too slow from the first second on; each 10,000 bytes give a second more.
    status, said = answer("/songs/a", [b"a"] * 100, 0.3)
    assert (status, b"too slow" in said) == (408, True)
    assert answer("/songs/a", [bytes(10_000)] * 5, 0.3) == (200, b"50000")
    assert answer("/songs/a", [bytes(MOST_BYTES)] * 3, 0) == (200, b"3000000")
    assert answer("/login", [bytes(MOST_BYTES)], 0) == (200, b"1000000")
    status, said = answer("/login", [bytes(MOST_BYTES // 4)] * 5, 0)
    assert (status, b"at most 1000000 bytes" in said) == (413, True)


def test_requests_that_never_begin_are_closed() -> None:
    """And those in whose midst the server is at work are not."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.5)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"done"})

    async def run() -> tuple[bytes, bytes, bytes]:
        server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_level="warning"))
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        watch = asyncio.create_task(close_silent(lambda: server, patience=0.1))
        connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        connections[1][1].write(b"GET / HT")
        connections[2][1].write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        silent, begun = [await asyncio.wait_for(connections[i][0].read(), 10) for i in (0, 1)]
        answered = await asyncio.wait_for(connections[2][0].read(), 10)
        watch.cancel()
        server.should_exit = True
        await serving
        return silent, begun, answered

    silent, begun, answered = asyncio.run(run())
    assert silent == begun == b""
    assert answered.startswith(b"HTTP/1.1 200 OK") and answered.endswith(b"done")
