"""Sharded images from servers and files that lie, stall, stop or end too early: whole, or refused, and nothing left."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import nas.pack
from nas.data import DataSettings
from nas.data import load as load_data
from nas.data.addresses import HIDDEN, hidden, joined, redacted, revealed
from nas.data.imagefolder import ImageFolderSettings
from nas.data.shards.cache import FileCache, read_whole
from nas.data.shards.index import UNFINISHED, expand, index_shard
from nas.data.table import TableSettings
from nas.data.webdataset import WebDatasetSettings
from nas.pack import pack
from search_space import bounds, files
from search_space.errors import BadFile, UserError

LIMIT = 400_000  # bytes of the cache
Answer = Callable[[BaseHTTPRequestHandler], None]


def png(seed: int = 0) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(content, "PNG")
    return content.getvalue()


def shard(count: int = 40) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for i in range(count):
            for name, value in ((f"{i:03}.png", png(i)), (f"{i:03}.cls", b"%d" % (i % 2))):
                header = tarfile.TarInfo(name)
                header.size = len(value)
                tar.addfile(header, io.BytesIO(value))
    return content.getvalue()


SHARD = shard()


@contextmanager
def running(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    """A server on this machine, HOST:PORT."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    http.daemon_threads = True
    http.block_on_close = False
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


@contextmanager
def serving(*answers: Answer) -> Iterator[str]:
    """A server that gives these answers in turn, the last one from then on."""
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(OSError):  # the client has gone
                (left.pop(0) if len(left) > 1 else left[0])(self)
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    with running(Handler) as host:
        yield host


def giving(
    content: bytes, *headers: tuple[str, str], length: int | None = -1, times: int = 1, code: int = 200
) -> Answer:
    """length: what is said of it, None for nothing."""

    def answer(to: BaseHTTPRequestHandler) -> None:
        to.send_response(code)
        if length is not None:
            to.send_header("Content-Length", str(len(content) * times if length == -1 else length))
        for name, value in headers:
            to.send_header(name, value)
        to.end_headers()
        for _ in range(times):
            to.wfile.write(content)

    return answer


def stalling(to: BaseHTTPRequestHandler) -> None:
    to.send_response(200)
    to.send_header("Content-Length", str(len(SHARD)))
    to.end_headers()
    to.wfile.write(SHARD[:1000])
    to.wfile.flush()
    time.sleep(3)


def dripping(to: BaseHTTPRequestHandler) -> None:
    to.send_response(200)
    to.send_header("Content-Length", str(len(SHARD)))
    to.end_headers()
    for i in range(100):
        to.wfile.write(SHARD[i : i + 1])
        to.wfile.flush()
        time.sleep(0.05)


HTML = b"<html><body>Please log in</body></html>" * 20
HOSTILE: dict[str, Answer] = {
    "cut, length said": giving(SHARD[:5000], length=len(SHARD)),
    "cut, no length": giving(SHARD[:5120], length=None),
    "cut, its own length": giving(SHARD[:5120]),
    "no end": giving(SHARD, length=None, times=1000),
    "too long": giving(SHARD, times=1000),
    "a length that is none": giving(SHARD[:100], length=-7),
    "packed": giving(gzip.compress(bytes(50_000_000)), ("Content-Encoding", "gzip")),
    "packed, cut": giving(gzip.compress(SHARD)[:900], ("Content-Encoding", "gzip"), length=None),
    "a page": giving(HTML, ("Content-Type", "text/html")),
    "empty": giving(b""),
    "an error": giving(HTML, code=503),
    "forbidden": giving(HTML, code=403),
    "itself": giving(b"", ("Location", "/a.tar"), code=302),
    "stalls": stalling,
    "drips": dripping,
}


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(bounds, "SILENT_S", 0.4)


def load(train: str, cache: Path) -> object:
    asked = WebDatasetSettings("webdataset", train=train, cache=str(cache), cache_gb=LIMIT / 1e9, shuffle_shards=1)
    return load_data(asked)


def kept(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file() and path.name != ".lock"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_answer_is_one_line_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    begun = time.monotonic()
    with serving(HOSTILE[name]) as host, pytest.raises(UserError) as caught:
        load(f"http://me:hunter2@{host}/a.tar?token=s3cr3t", tmp_path)
    message = str(caught.value)
    assert "\n" not in message and "hunter2" not in message and "s3cr3t" not in message
    assert time.monotonic() - begun < 6
    assert not kept(tmp_path), "nothing that was not fetched in whole stays"
    if name == "stalls":
        assert "nothing for 0.4 s" in message
    if name == "drips":
        assert "fewer than 10,000 a second" in message


@pytest.mark.parametrize("name", HOSTILE)
def test_a_server_that_healed_is_asked_again(name: str, tmp_path: Path) -> None:
    with serving(HOSTILE[name], giving(SHARD)) as host:
        for _ in range(2):
            try:
                load(f"http://{host}/a.tar", tmp_path)
            except UserError:
                continue
            break
        else:
            pytest.fail("the second time it was sound")
        assert sum(path.stat().st_size for path in kept(tmp_path) if path.suffix == ".tar") == len(SHARD)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, len(SHARD) - 1))
def test_a_file_in_the_cache_that_was_cut_anywhere_is_fetched_again(size: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder, serving(giving(SHARD)) as host:
        cache, address = FileCache(Path(folder), LIMIT), f"http://{host}/a.tar"

        def check(file: io.BufferedIOBase) -> None:
            index_shard(file, address)  # type: ignore[arg-type]

        cache.open(address, check).close()  # type: ignore[arg-type]
        (path,) = Path(folder).glob("*a.tar")
        path.write_bytes(SHARD[:size])
        if size < 2 * 512 or any(SHARD[size - 1024 : size]):  # otherwise it ends as a tar does
            with cache.open(address, check) as file:  # type: ignore[arg-type]
                assert file.read() == SHARD


# ------------------------------------------------------------------ secrets

TEXT = st.text("abcXYZ019-_.~%", min_size=1, max_size=12)


@given(TEXT, TEXT, TEXT, st.booleans(), st.sampled_from(["https", "s3", "http"]))
def test_secrets_are_hidden_and_found_again(user: str, password: str, token: str, port: bool, scheme: str) -> None:
    password, token = f"Pw{password}", f"Tk{token}wT"
    host = "host:8080" if port else "host"
    address = f"{scheme}://{user}:{password}@{host}/a/b-{{00..12}}.tar?name=c.tar&token={token}"
    for shown in (hidden(address), redacted(f"data.train={address}"), redacted(f"url='{address}' failed")):
        assert password not in shown and token not in shown and f"{HIDDEN}@{host}/a/b-" in shown
        assert "name=c.tar" in shown
    assert redacted(hidden(address)) == hidden(hidden(address)) == hidden(address)
    assert revealed(expand(hidden(address))[3]) == address.replace("{00..12}", "03")
    folder = hidden(f"{scheme}://{user}:{password}@{host}/a?token={token}")
    assert revealed(joined(folder, "index.npz")) == f"{scheme}://{user}:{password}@{host}/a/index.npz?token={token}"


def test_each_of_several_addresses_has_its_own_secret() -> None:
    each = [f"https://host/{name}.tar?sig={name * 9}" for name in "abc"]
    assert [revealed(address) for address in hidden("::".join(each)).split("::")] == each
    with pytest.raises(UserError, match="give the whole address again"):
        read_whole("https://***@never-given/index.npz")


@pytest.mark.parametrize(
    "address", ["/data/a@b:c?d=e", "hf://datasets/me/x@main/a.tar", "https://host/a@b.tar", "s3://bucket/a:b@c.tar"]
)
def test_what_holds_no_secret_stays(address: str) -> None:
    assert redacted(address) == hidden(address) == revealed(address) == address


def test_settings_and_cache_hold_no_secret(tmp_path: Path) -> None:
    with serving(giving(SHARD)) as host:
        address = f"http://me:hunter2@{host}/a.tar?token=s3cr3t"
        asked = WebDatasetSettings("webdataset", train=address, cache=str(tmp_path), cache_gb=0.001, shuffle_shards=1)
        data = load_data(asked)
    said = repr(asked) + json.dumps(vars(asked)) + repr(data.found) + " ".join(map(str, tmp_path.rglob("*")))
    written = b"".join(path.read_bytes() for path in kept(tmp_path))
    assert "hunter2" not in said and "s3cr3t" not in said and HIDDEN in said
    assert b"hunter2" not in written and b"s3cr3t" not in written


# ------------------------------------------------------------------ packing that was stopped


@pytest.mark.parametrize("at", ["train-000000.tar", "test-000000.tar", "index.npz"])
def test_a_stopped_packing_is_refused_and_begins_anew(at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole = files.write_whole

    def killed(path: Path, content: bytes | str) -> None:
        if path.name == at:
            raise KeyboardInterrupt
        write_whole(path, content)

    monkeypatch.setattr(nas.pack, "write_whole", killed)
    with pytest.raises(KeyboardInterrupt):
        pack(DIGITS, tmp_path, 1.0)
    monkeypatch.undo()
    cache = str(tmp_path / "cache")
    for asked in (
        WebDatasetSettings("webdataset", str(tmp_path), cache=cache),
        WebDatasetSettings("webdataset", train=f"{tmp_path}/train-000000.tar", cache=cache),
    ):
        with pytest.raises(BadFile, match=r"holds neither|run it again"):
            load_data(asked)
    pack(DIGITS, tmp_path, 1.0)
    assert not (tmp_path / UNFINISHED).exists()
    whole = load_data(WebDatasetSettings("webdataset", str(tmp_path), cache=cache))
    assert sum(map(len, (whole.train, whole.validation, whole.test))) == 1797
    with pytest.raises(UserError, match="holds packed images already"):
        pack(DIGITS, tmp_path, 1.0)


# ------------------------------------------------------------------ counts


@pytest.mark.parametrize(
    "pattern", ["a-{0..999999999}.tar", "{0..99}" * 9, "{0..1}" * 400, "{0..%s}" % ("9" * 5000), "{1..0}{0..999999999}"]
)
def test_patterns_of_too_many_shards(pattern: str) -> None:
    begun = time.monotonic()
    with pytest.raises(UserError, match=r"names more than|names no shard"):
        expand(pattern)
    assert time.monotonic() - begun < 2
    assert len(expand("{0..9}" * 3 + "{1..1}" * 1200)) == 1000


def test_an_index_that_unpacks_to_more_than_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "UNPACKED_BYTES", 10_000_000)
    with zipfile.ZipFile(tmp_path / "index.npz", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("about.npy", bytes(20_000_000))
    with pytest.raises(BadFile, match="its arrays have more than"):
        load_data(WebDatasetSettings("webdataset", str(tmp_path)))
    with (tmp_path / "index.npz").open("wb") as file:
        file.truncate(bounds.INDEX_BYTES + 1)
    with pytest.raises(BadFile, match="the most of such a file"):
        load_data(WebDatasetSettings("webdataset", str(tmp_path)))


# ------------------------------------------------------------------ nothing is dropped or mixed without a word


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_linked_members_are_said(kind: bytes) -> None:
    content = io.BytesIO(SHARD)
    with tarfile.open(fileobj=content, mode="a") as tar:
        header = tarfile.TarInfo("x.png")
        header.type, header.linkname = kind, "000.png"
        tar.addfile(header)
    with pytest.raises(BadFile, match=r"'x\.png' is a link"):
        index_shard(content, "a.tar")


@pytest.mark.parametrize("name", ["000.cls", "./000.cls"])
def test_two_labels_of_one_image_are_refused(name: str) -> None:
    content = io.BytesIO(SHARD)
    with tarfile.open(fileobj=content, mode="a") as tar:
        header = tarfile.TarInfo(name)
        header.size = 1
        tar.addfile(header, io.BytesIO(b"1"))
    with pytest.raises(BadFile, match=r"000\.cls' is the second label"):
        index_shard(content, "a.tar")


@given(st.lists(st.text("ab\n\\n", max_size=4), min_size=1, max_size=3, unique=True), st.data())
def test_other_class_names_have_another_digest(names: list[str], draw: st.DataObject) -> None:
    from dataclasses import replace

    others = draw.draw(st.lists(st.text("ab\n\\n", max_size=4), min_size=1, max_size=3, unique=True))
    one = replace(DIGITS, class_names=tuple(names)).digest
    assert (one == replace(DIGITS, class_names=tuple(others)).digest) == (names == others)


DIGITS = load_data(DataSettings())


def test_a_pipe_among_images_is_not_waited_for(tmp_path: Path) -> None:
    for i in range(60):
        folder = tmp_path / "ab"[i % 2]
        folder.mkdir(exist_ok=True)
        (folder / f"{i}.png").write_bytes(png(i))
    os.mkfifo(tmp_path / "a" / "x.png")
    found = load_data(ImageFolderSettings("imagefolder", str(tmp_path)))
    assert "1 neither file nor folder" in found.found[0]
    rows = [f"{'ab'[i % 2]}/{i}.png,{i % 2}" for i in range(60)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *rows, "a/x.png,0"]))
    listed = load_data(TableSettings("table", str(tmp_path), damaged=0.1))
    assert [one.name for one in listed.findings.damaged] == ["a/x.png"]
    assert "pipe or a device" in listed.findings.damaged[0].reason
