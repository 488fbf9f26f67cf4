"""Shards: packed and read back, webdataset's own, streamed through a small cache, and their damage reported."""

from __future__ import annotations

import functools
import io
import tarfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from nas.data import DataSet, DataSettings, Split, peek
from nas.data import load as load_data
from nas.data.order import batches_of
from nas.data.shards import cache as caches
from nas.data.shards.index import expand, find_shards
from nas.data.webdataset import WebDatasetSettings
from nas.pack import pack
from nas.run.distributed import Place
from search_space import UserError, bounds
from search_space.errors import BadFile, CannotWrite


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scikit-learn's digits in 38 shards."""
    folder = tmp_path_factory.mktemp("digits")
    pack(load_data(DataSettings()), folder, shard_mb=0.1)
    return folder


@dataclass
class Server:
    """A folder over HTTP. gets: how often each file was asked for; broken: requests that it will refuse."""

    url: str
    gets: Counter[str] = field(default_factory=Counter)
    broken: int = 0


@pytest.fixture
def server(shards: Path) -> Iterator[Server]:
    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            found.gets[self.path.lstrip("/")] += 1
            if found.broken:
                found.broken -= 1
                self.send_error(503)
                return
            super().do_GET()

        def log_message(self, format: str, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(shards)))
    found = Server(f"http://127.0.0.1:{http.server_port}")
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    yield found
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "PAUSES_S", (0.0, 0.0))


def load(root: Path | str, cache: Path, **options: object) -> DataSet:
    return load_data(WebDatasetSettings("webdataset", str(root), cache=str(cache), **options))  # type: ignore[arg-type]


def pixels(split: Split) -> list[tuple[bytes, int]]:
    return sorted(
        (split.source.read(int(i)).tobytes(), int(label)) for i, label in zip(split.indices, split.labels, strict=True)
    )


# ------------------------------------------------------------------ what is packed reads back


def test_packed_images_read_back_bit_by_bit(shards: Path, tmp_path: Path) -> None:
    ours, theirs = load(shards, tmp_path), load_data(DataSettings())
    for split in ("train", "validation", "test"):
        assert pixels(getattr(ours, split)) == pixels(getattr(theirs, split))
    for name in ("name", "class_names", "mean", "std", "flip", "crop"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert peek(DataSettings("webdataset", str(shards))).class_names == tuple("0123456789")
    assert not list(tmp_path.iterdir()), "an index spares the cache"


def test_packing_twice_gives_the_same_bytes_and_nothing_else(shards: Path, tmp_path: Path) -> None:
    pack(load_data(DataSettings()), tmp_path, shard_mb=0.1)
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in shards.iterdir()}
    assert all((tmp_path / p.name).read_bytes() == p.read_bytes() for p in shards.glob("*.tar"))
    assert max(p.stat().st_size for p in shards.glob("*.tar")) < 0.12e6


def test_encoded_images_keep_their_bytes(shards: Path, tmp_path: Path) -> None:
    data = load(shards, tmp_path / "cache", limit=40)
    pack(data, tmp_path / "again", shard_mb=0.05)
    with tarfile.open(tmp_path / "again" / "test-000000.tar") as tar:
        member = tar.extractfile("00000000.png")
        assert member is not None
        content = member.read()
    source = data.test.source
    assert any(source.encoded(int(i)) == content for i in data.test.indices)  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore")
def test_shards_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for out in ("file", "file/x"):
        with pytest.raises(CannotWrite, match=f"cannot make the folder '.*{out}': "):
            pack(load_data(DataSettings()), tmp_path / out)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves shards open
def test_webdataset_reads_what_was_packed(shards: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    files = [str(p) for p in sorted(shards.glob("train-*.tar"))]
    samples = list(webdataset.WebDataset(files, shardshuffle=False).decode("rgb8").to_tuple("png", "cls"))
    index = find_shards(str(shards), None, None, caches.FileCache(shards / "unused", 0)).train
    assert [label for _, label in samples] == index.label.tolist()
    source = load(shards, shards / "unused").train.source
    assert all(np.array_equal(image, source.read(i)) for i, (image, _) in enumerate(samples[:50]))


@pytest.mark.filterwarnings("ignore")
def test_shards_that_webdataset_wrote(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 8, 9, 3)).astype(np.uint8)
    for name, part in (("train", range(40)), ("val", range(40, 60))):
        with webdataset.ShardWriter(str(tmp_path / f"{name}-%04d.tar"), maxcount=9, verbose=0) as sink:
            for i in part:
                sink.write({"__key__": f"a/n{i:04}", "png": images[i], "cls": i % 3, "json": {"id": i}})
    by_root = load(tmp_path, tmp_path / "cache")
    pattern = WebDatasetSettings(
        "webdataset",
        train=f"{tmp_path}/train-{{0000..0004}}.tar",
        test=f"{tmp_path}/val-{{0000..0001}}.tar::{tmp_path}/val-0002.tar",
        cache=str(tmp_path / "cache"),
    )
    for data in (by_root, load_data(pattern)):
        assert data.class_names == ("0", "1", "2")
        assert pixels(data.test) == sorted((images[i].tobytes(), i % 3) for i in range(40, 60))
        assert len(data.train) + len(data.validation) == 40
    kept = sorted((tmp_path / "cache" / "index").iterdir())
    assert len(kept) == 8, "one index a shard, made once"


def test_patterns_name_shards() -> None:
    assert expand("https://x/a-{008..010}.tar") == [f"https://x/a-{n}.tar" for n in ("008", "009", "010")]
    assert expand("b{0..1}{2..3}::c") == ["b02", "b03", "b12", "b13", "c"]
    with pytest.raises(UserError, match="3 is above 2"):
        expand("{3..2}")


# ------------------------------------------------------------------ streaming


def test_a_stream_is_what_the_files_are_and_the_cache_keeps_its_limit(
    server: Server, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 0.8e6
    assert sum(p.stat().st_size for p in shards.glob("*.tar")) > 1.5 * limit
    largest = 0
    make_room = caches.FileCache._make_room

    def watched(cache: caches.FileCache, needed: int) -> None:
        nonlocal largest
        make_room(cache, needed)
        kept = [path for path in cache.folder.iterdir() if path.is_file() and path.suffix != ".partial"]  # it is needed
        largest = max(largest, needed + sum(path.stat().st_size for path in kept))

    monkeypatch.setattr(caches.FileCache, "_make_room", watched)
    options = {"resolution": 16, "batch_size": 16, "training": True, "seed": 3, "epoch": 1}
    near = load(shards, tmp_path / "unused", shuffle_shards=1)
    far = load(server.url, tmp_path / "cache", cache_gb=limit / 1e9, shuffle_shards=1)
    for ours, theirs in zip(far.batches(far.train, **options), near.batches(near.train, **options), strict=True):  # type: ignore[arg-type]
        assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
    assert 0.5 * limit < largest <= limit
    fetched = {name: times for name, times in server.gets.items() if name.endswith(".tar")}
    used = {far.train.source.index.addresses[n] for n in far.train.source.shard_of(far.train.indices)}  # type: ignore[attr-defined]
    assert fetched == {address.rsplit("/", 1)[-1]: 1 for address in used}, "each shard of the split, once an epoch"


def test_evaluation_fetches_each_shard_once(server: Server, tmp_path: Path) -> None:
    data = load(server.url, tmp_path, cache_gb=0.8e-3, shuffle_shards=1)
    seen = torch.cat([y for _, y in data.batches(data.test, 16, 32)])
    assert seen.tolist() == data.test.labels.tolist()
    assert {times for name, times in server.gets.items() if name.startswith("test")} == {1}


def test_a_server_that_fails_now_and_then(server: Server, tmp_path: Path, no_pauses: None) -> None:
    data = load(server.url, tmp_path)
    server.broken = 2
    assert data.test.source.read(0).shape == (8, 8, 3)
    server.broken = 3
    with pytest.raises(BadFile, match=r"cannot fetch 'http.*train-000000\.tar': .*503"):
        data.train.source.read(0)
    assert data.train.source.read(0).shape == (8, 8, 3), "a later attempt may succeed"


def test_what_a_killed_process_left_is_swept_away(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".abc-train-000003.tar.partial").write_bytes(b"half")
    load(server.url, tmp_path).train.source.read(0)
    assert not list(tmp_path.glob(".*.partial"))


# ------------------------------------------------------------------ orders


class Numbered:
    """n images in shards of so many, of which only the numbers count."""

    def __init__(self, count: int, shard: int, window: int) -> None:
        self.count, self.shard, self.window = count, shard, window

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> NDArray[np.uint8]:
        raise NotImplementedError

    def shard_of(self, indices: NDArray[np.int64]) -> NDArray[np.int32]:
        return (indices // self.shard).astype(np.int32)

    def prepare(self, shard: int) -> None: ...


@given(
    count=st.integers(1, 300),
    shard=st.integers(1, 40),
    window=st.integers(1, 5),
    batch=st.integers(1, 8),
    ranks=st.integers(1, 4),
    draws=st.none() | st.tuples(st.integers(0, 9), st.integers(0, 9)),
)
@settings(max_examples=150, deadline=None)
def test_parts_of_an_epoch(
    count: int, shard: int, window: int, batch: int, ranks: int, draws: tuple[int, int] | None
) -> None:
    source, indices = Numbered(count, shard, window), np.arange(count)
    try:
        parts = [
            batches_of(source, indices, indices, batch * ranks, draws, Place(rank=r, ranks=ranks)) for r in range(ranks)
        ]
    except UserError:
        assert count < batch * ranks or count // -(-count // (batch * ranks)) < ranks
        return
    assert len({len(part) for part in parts}) == 1, "all processes take equally many steps"
    seen = np.concatenate([chunk for part in parts for chunk in part])
    assert len(set(seen.tolist())) == len(seen)
    if draws is None:
        assert seen.tolist() == list(range(count))
    else:
        assert len(seen) == count // (batch * ranks) * batch * ranks or count < batch * ranks
        assert {len(chunk) for part in parts for chunk in part} == {batch} or count < batch * ranks


def test_processes_read_shards_of_their_own() -> None:
    source, indices = Numbered(6400, 100, 4), np.arange(6400)
    parts = [batches_of(source, indices, indices, 64, (0, 0), Place(rank=rank, ranks=4)) for rank in range(4)]
    read = [set(source.shard_of(np.concatenate(part)).tolist()) for part in parts]
    assert sum(len(a & b) for i, a in enumerate(read) for b in read[:i]) <= 3, "but where two of them meet"


def test_images_are_mixed_within_the_window_and_no_further() -> None:
    source, indices = Numbered(5000, 100, 4), np.arange(5000)
    order = np.concatenate(batches_of(source, indices, indices, 50, (1, 0), Place()))
    shards = source.shard_of(order)
    first, last = ({s: f(np.flatnonzero(shards == s)) for s in range(50)} for f in (np.min, np.max))
    at_once = [sum(first[s] <= place <= last[s] for s in range(50)) for place in range(5000)]
    assert max(at_once) <= 4 + 2
    assert np.mean([len(set(shards[i : i + 50])) for i in range(500, 4000, 50)]) > 3.5
    other = np.concatenate(batches_of(source, indices, indices, 50, (1, 1), Place()))
    assert not np.array_equal(order, other)


def test_validation_has_shards_of_its_own(shards: Path, tmp_path: Path) -> None:
    walked = tmp_path / "walked"
    walked.mkdir()
    for path in shards.glob("*.tar"):
        (walked / path.name).write_bytes(path.read_bytes())
    theirs = load(walked, tmp_path)
    assert [len(s) for s in (theirs.train, theirs.validation, theirs.test)] == [1079, 359, 359]
    assert pixels(theirs.validation) == pixels(load(shards, tmp_path).validation)
    for path in walked.glob("validation-*.tar"):
        path.unlink()
    data = load(walked, tmp_path, validation_share=0.3)
    ours, theirs = (set(s.source.shard_of(s.indices).tolist()) for s in (data.train, data.validation))  # type: ignore[attr-defined]
    assert len(ours & theirs) <= 1
    assert len(data.validation) == round(0.3 * (len(data.train) + len(data.validation)))
    few = load(walked, tmp_path, limit=200)
    assert len({*few.train.source.shard_of(few.train.indices), *few.train.source.shard_of(few.validation.indices)}) <= 5  # type: ignore[attr-defined]


def test_an_epoch_can_be_entered_anywhere(shards: Path, tmp_path: Path) -> None:
    data = load(shards, tmp_path)
    for place in (Place(), Place(rank=1, ranks=2)):
        mine = replace(data, place=place)
        whole = list(mine.batches(mine.train, 8, 32, 5, 2, training=True))
        rest = list(mine.batches(mine.train, 8, 32, 5, 2, training=True, start=7))
        assert len(rest) == len(whole) - 7
        assert all(torch.equal(a[0], b[0]) for a, b in zip(rest, whole[7:], strict=True))


# ------------------------------------------------------------------ bad input


def write_shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return path


def png(seed: int = 0) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(content, "PNG")
    return content.getvalue()


def sound(count: int = 60) -> dict[str, bytes]:
    return {f"{i:03}.{end}": v for i in range(count) for end, v in (("png", png(i)), ("cls", b"%d" % (i % 2)))}


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def overwrite(path: Path, place: int, content: bytes) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:place] + content + whole[place + len(content) :])


DAMAGES: list[tuple[str, dict[str, bytes], Callable[[Path], None], str]] = [
    ("no label", {**sound(), "x.png": png()}, lambda p: None, r"'x\.png' has no label \('x\.cls'\)"),
    (
        "no number",
        {**sound(), "x.png": png(), "x.cls": b"cat"},
        lambda p: None,
        r"'x\.cls' holds no class number",
    ),
    ("negative label", {**sound(), "x.png": png(), "x.cls": b"-1"}, lambda p: None, r"'x\.cls' holds no class number"),
    ("two images", {**sound(), "x.png": png(), "x.jpg": png()}, lambda p: None, r"'x\.jpg' is the second image"),
    ("no image", {"x.cls": b"1"}, lambda p: None, "holds no image"),
    ("empty file", {}, lambda p: cut(p, 0), "not a plain tar"),
    ("not a tar", sound(), lambda p: p.write_bytes(b"<html>" * 1000), "not a plain tar"),
    ("cut in a member", sound(), lambda p: cut(p, 1024 + 100), r"damaged after '000\.\w+'"),
    ("cut between members", sound(), lambda p: cut(p, 4 * 1024), r"cut or damaged after '001\.cls'"),
    ("header damaged", sound(), lambda p: overwrite(p, 4 * 1024, b"\xff" * 200), r"cut or damaged after '001\.cls'"),
]


@pytest.mark.parametrize(("content", "damage", "wanted"), [d[1:] for d in DAMAGES], ids=[d[0] for d in DAMAGES])
def test_a_damaged_shard_is_named_with_its_member(
    content: dict[str, bytes], damage: Callable[[Path], None], wanted: str, tmp_path: Path
) -> None:
    write_shard(tmp_path / "train-0.tar", sound())
    damage(write_shard(tmp_path / "train-1.tar", content))
    with pytest.raises(BadFile, match=rf"shard '.*train-1\.tar'.*{wanted}") as caught:
        load(tmp_path, tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_a_damaged_image_is_named_with_its_shard(tmp_path: Path) -> None:
    write_shard(tmp_path / "train-0.tar", {**sound(), "a/b.png": png()[:60], "a/b.cls": b"1"})
    with pytest.raises(BadFile, match=r"cannot read 'a/b\.png' of shard '.*train-0\.tar'"):
        load(tmp_path, tmp_path / "cache")


def test_a_shard_that_changed_since_it_was_indexed(shards: Path, tmp_path: Path) -> None:
    for file in shards.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    cut(tmp_path / "test-000000.tar", 5000)
    asked = WebDatasetSettings("webdataset", str(tmp_path), cache=str(tmp_path / "cache"))
    size = (shards / "test-000000.tar").stat().st_size
    for opened in (load_data, peek):  # before anything starts
        with pytest.raises(BadFile, match=rf"test-000000\.tar' has 5000 bytes, its index says {size}") as caught:
            opened(asked)
        assert "copy it again, or pack the data again" in str(caught.value) and "cache" not in str(caught.value)
    (tmp_path / "test-000000.tar").unlink()
    with pytest.raises(BadFile, match=r"cannot read '.*test-000000\.tar': No such file"):
        load_data(asked)


def test_a_shard_that_changes_while_it_is_used(shards: Path, server: Server, tmp_path: Path, no_pauses: None) -> None:
    for file in shards.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    near = load(tmp_path, tmp_path / "cache")
    cut(tmp_path / "test-000000.tar", 5000)
    with pytest.raises(BadFile, match=r"has 5000 bytes, its index says \d+: .*; copy it again, or pack"):
        near.test.source.read(0)
    far = load(server.url, tmp_path / "cache")
    image, whole = far.test.source.read(0), (shards / "test-000000.tar").read_bytes()
    (fetched,) = (tmp_path / "cache").glob("*test-000000.tar")
    cut(fetched, 5000)
    assert np.array_equal(far.test.source.read(0), image), "what is cut is fetched again"
    cut(shards / "test-000000.tar", 5000)
    cut(fetched, 5000)
    with pytest.raises(BadFile, match=r"has 5000 bytes, its index says \d+: .*or empty data\.cache="):
        far.test.source.read(0)
    (shards / "test-000000.tar").write_bytes(whole)
    assert np.array_equal(far.test.source.read(0), image), "what is healed is asked for again"


def test_a_damaged_index(shards: Path, tmp_path: Path) -> None:
    for content in (b"", b"junk", (shards / "index.npz").read_bytes()[:900]):
        (tmp_path / "index.npz").write_bytes(content)
        with pytest.raises(BadFile, match=r"index\.npz' is not the index of a set of shards"):
            load(tmp_path, tmp_path / "cache")


def test_an_index_with_too_few_sizes(shards: Path, tmp_path: Path) -> None:
    with np.load(shards / "index.npz") as file:
        fields = dict(file)
    np.savez(tmp_path / "index.npz", **{**fields, "test_shard_bytes": fields["test_shard_bytes"][1:]})
    with pytest.raises(BadFile, match="its arrays do not fit together"):
        load(tmp_path, tmp_path / "cache")


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, r"data=webdataset needs data\.root="),
        ({"root": "/no/such"}, r"holds neither index\.npz nor a \.tar"),
        ({"root": "http://127.0.0.1:9/x"}, r"cannot fetch 'http://127\.0\.0\.1:9/x/index\.npz'"),
        ({"train": "http://127.0.0.1:9/x-{0..1}.tar"}, r"cannot fetch 'http://127\.0\.0\.1:9/x-0\.tar'"),
        ({"train": "/no/such.tar"}, r"cannot read '/no/such\.tar': No such file"),
        ({"root": "ftpx://a/b"}, r"cannot read 'ftpx://a/b/index\.npz': Protocol not known"),
    ],
)
def test_what_cannot_be_found(options: dict[str, str], wanted: str, tmp_path: Path, no_pauses: None) -> None:
    asked = WebDatasetSettings("webdataset", cache=str(tmp_path), **options)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=wanted) as caught:
        peek(asked)
    assert "\n" not in str(caught.value)


def test_a_cache_that_cannot_be_kept_or_read(tmp_path: Path) -> None:
    write_shard(tmp_path / "train-0.tar", sound())
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot make the folder '.*file/index': Not a directory"):
        load(tmp_path, tmp_path / "file")
    load(tmp_path, tmp_path / "cache")
    (kept,) = (tmp_path / "cache" / "index").iterdir()
    kept.write_bytes(b"junk")
    with pytest.raises(BadFile, match=r"the index of '.*train-0\.tar', is damaged: .*; remove it"):
        load(tmp_path, tmp_path / "cache")


def test_a_missing_file_on_the_server(server: Server, tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"cannot fetch '.*/elsewhere/index\.npz': no such file"):
        load(f"{server.url}/elsewhere", tmp_path)


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def lacking(address: str, **options: object) -> None:
        raise ImportError('HTTPFileSystem requires "requests" and "aiohttp" to be installed')

    monkeypatch.setattr("fsspec.core.url_to_fs", lacking)
    with pytest.raises(UserError, match=r"aiohttp.*pip install -c constraints.txt -e '\.\[stream\]'"):
        load("https://example.org/x", tmp_path)


def test_a_cache_that_is_too_small(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.cache_gb=0\.001 is too small for the \d+ shards .* data\.cache_gb=\S+"):
        load(server.url, tmp_path, cache_gb=0.001)
    caches.FileCache(tmp_path, 1000)
    with pytest.raises(UserError, match=r"data\.cache_gb=1e-06 is less than one shard"):
        caches.FileCache(tmp_path, 1000).open(f"{server.url}/train-000000.tar")
