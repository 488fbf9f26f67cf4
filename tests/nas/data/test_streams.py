"""Shards from servers: wrong bytes are never given, redirects are followed, a killed search goes on from any of them.

The S3 server is moto's, on 127.0.0.1: `pip install 's3fs' 'moto[s3]' flask flask-cors`. The hub is an endpoint of these
tests, which answers `huggingface_hub` as olah does, a mirror of the hub by other people (`docs/cluster.md`).
"""

from __future__ import annotations

import functools
import json
import logging
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import fsspec.config
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load as load_tensors

from nas.data import DataSet, DataSettings
from nas.data import load as load_data
from nas.data.shards.index import DIGEST, find_shards
from nas.data.soundness import Findings
from nas.data.webdataset import WebDatasetSettings
from nas.pack import pack
from search_space import bounds
from search_space.errors import BadFile, UserError
from tests import ROOT
from tests.commands import run_module
from tests.nas.data.test_hostile import Answer, giving, running, serving, stalling
from tests.nas.run import mishap
from tests.nas.run.test_resume import BUDGETS_MS, SPACES, files_of

LIMIT = 0.7e6  # bytes of the cache, less than the shards have
BATCHES = {"resolution": 16, "batch_size": 16, "training": True, "seed": 3}
Serve = Callable[[Path], Iterator[tuple[str, Counter[str]]]]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "PAUSES_S", (0.0, 0.0))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scikit-learn's digits in shards."""
    folder = tmp_path_factory.mktemp("packed")
    pack(load_data(DataSettings()), folder, shard_mb=0.1)
    return folder


@pytest.fixture
def shards(packed: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(packed, tmp_path / "shards"))


@contextmanager
def web(folder: Path, moved: str | None = None) -> Iterator[tuple[str, Counter[str]]]:
    """A folder over HTTP, and how often each of its files was given. moved: where /moved/ redirects to, signed."""
    gets: Counter[str] = Counter()

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/moved/"):
                self.send_response(302)
                self.send_header("Location", f"{moved}{self.path.removeprefix('/moved')}?X-Amz-Signature=s3cr3t")
                self.end_headers()
                return
            self.path = self.path.partition("?")[0]
            gets[self.path.rpartition("/")[2]] += 1
            super().do_GET()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with running(functools.partial(Handler, directory=str(folder))) as host:
        yield f"http://{host}", gets


def load(root: Path | str, cache: Path, **options: object) -> DataSet:
    given = {"cache_gb": LIMIT / 1e9, "shuffle_shards": 1, **options}
    return load_data(WebDatasetSettings("webdataset", str(root), cache=str(cache), **given))  # type: ignore[arg-type]


def epoch(data: DataSet, number: int = 1, start: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(data.batches(data.train, epoch=number, start=start, **BATCHES))  # type: ignore[arg-type]


def assert_same(ours: list[tuple[torch.Tensor, torch.Tensor]], theirs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    assert len(ours) == len(theirs) > 0
    assert all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(ours, theirs, strict=True))


def change_a_byte(shard: Path, offset: int) -> None:
    content = bytearray(shard.read_bytes())
    content[offset] ^= 1
    shard.write_bytes(content)


# ------------------------------------------------------------------ wrong bytes of the right length


def test_wrong_bytes_from_a_server_are_refused_and_not_kept(shards: Path, tmp_path: Path) -> None:
    whole = (shards / "test-000000.tar").read_bytes()
    with web(shards) as (address, gets):
        data = load(address, tmp_path / "cache")
        change_a_byte(shards / "test-000000.tar", int(data.test.source.index.offset[3]) + 70)  # type: ignore[attr-defined]
        with pytest.raises(BadFile, match=r"test-000000\.tar' does not hold what was indexed: '\d+\.png' has other"):
            data.test.source.read(0)
        assert gets["test-000000.tar"] == 1 + len(bounds.PAUSES_S)
        assert not list((tmp_path / "cache").glob("*.tar")), "nor any other image of that shard is taken"
        (shards / "test-000000.tar").write_bytes(whole)
        assert np.array_equal(data.test.source.read(3), load(shards, tmp_path / "unused").test.source.read(3))


def test_a_cached_shard_that_was_damaged_is_fetched_again(shards: Path, tmp_path: Path) -> None:
    with web(shards) as (address, gets):
        data, near = load(address, tmp_path / "cache"), load(shards, tmp_path / "unused")
        data.test.source.read(0)
        (kept,) = (tmp_path / "cache").glob("*test-000000.tar")
        change_a_byte(kept, int(data.test.source.index.offset[5]) + 20)  # type: ignore[attr-defined]
        assert np.array_equal(data.test.source.read(5), near.test.source.read(5))
        assert gets["test-000000.tar"] == 2
        assert kept.read_bytes() == (shards / "test-000000.tar").read_bytes()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_changed_byte_of_an_image_is_noticed(packed: Path, draw: st.DataObject) -> None:
    index = find_shards(str(packed), None, None, None).test  # type: ignore[arg-type]
    assert index is not None and index.sealed
    image = draw.draw(st.integers(0, 40))
    content = bytearray(Path(index.addresses[0]).read_bytes()[index.offset[image] :][: index.size[image]])
    assert index.holds(image, bytes(content))
    content[draw.draw(st.integers(0, len(content) - 1))] ^= 1 << draw.draw(st.integers(0, 7))
    assert not index.holds(image, bytes(content)) and not index.holds(image, bytes(content[:-1]))


def test_a_local_shard_with_wrong_bytes_is_refused(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load(shards, tmp_path)
    change_a_byte(shards / "train-000001.tar", int(data.train.source.index.offset[0]) + 70)  # type: ignore[attr-defined]
    with pytest.raises(BadFile, match=r"train-000001\.tar' does not hold what was indexed"):
        load(shards, tmp_path)
    monkeypatch.setattr("nas.data.soundness.FULLY_UP_TO", 1000)  # too many to look through in advance
    with pytest.raises(BadFile, match=r"train-000001\.tar' does not hold what was indexed"):
        for number in range(2):
            epoch(load(shards, tmp_path), number)


def test_many_images_with_digests_are_not_read_in_advance(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []

    def look(source: object, positions: list[int], *rest: object) -> Findings:
        looked.append(len(positions))
        return Findings()

    monkeypatch.setattr("nas.data.soundness.look_through", look)
    load(packed, tmp_path)
    monkeypatch.setattr("nas.data.soundness.FULLY_UP_TO", 1000)
    load(packed, tmp_path)
    assert looked == [1079, 359, 359, 359, 359], "of many only the held-out ones"


def test_walked_shards_are_sealed_where_all_bytes_came(shards: Path, tmp_path: Path) -> None:
    with web(shards) as (address, _):
        asked = {"train": f"{address}/train-{{000000..000002}}.tar", "shuffle_shards": 1, "cache_gb": 1e-3}
        data = load_data(WebDatasetSettings("webdataset", cache=str(tmp_path / "far"), **asked))  # type: ignore[arg-type]
        for _ in range(2):  # the second time from the index that was kept
            assert data.train.source.index.sealed  # type: ignore[attr-defined]
            data = load_data(WebDatasetSettings("webdataset", cache=str(tmp_path / "far"), **asked))  # type: ignore[arg-type]
        for kept in (tmp_path / "far").glob("*.tar"):
            kept.unlink()
        change_a_byte(shards / "train-000001.tar", 600)
        with pytest.raises(BadFile, match=r"train-000001\.tar' does not hold what was indexed"):
            epoch(data)
    (shards / "index.npz").unlink()
    near = load(shards, tmp_path / "near")
    assert not near.train.source.index.digest.any(), "only headers of local ones are read"  # type: ignore[attr-defined]


def rewritten(folder: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    """Write a folder's index again with other arrays."""
    with np.load(folder / "index.npz", allow_pickle=False) as file:
        fields = dict(file)
    change(fields)
    np.savez(folder / "index.npz", **fields)


def test_an_index_of_an_earlier_version_is_read_and_is_another_input(shards: Path, tmp_path: Path) -> None:
    data = load(shards, tmp_path)
    rewritten(shards, lambda fields: [fields.pop(f"{split}_digest") for split in ("train", "test")])  # type: ignore[func-returns-value]
    earlier = load(shards, tmp_path)
    assert np.array_equal(earlier.test.source.read(3), data.test.source.read(3))
    assert earlier.files != data.files and earlier.digest == data.digest
    rewritten(shards, lambda fields: fields.update(train_digest=np.zeros((len(fields["train_label"]), DIGEST), "u1")))
    assert load(shards, tmp_path).files == earlier.files


@pytest.mark.parametrize(
    ("field", "value"),
    [("offset", -512), ("offset", 2**62), ("size", -1), ("size", 2**62), ("shard", -1), ("digest", None)],
)
def test_an_index_that_points_outside_of_its_shards(
    field: str, value: int | None, shards: Path, tmp_path: Path
) -> None:
    def damage(fields: dict[str, np.ndarray]) -> None:
        if value is None:
            fields[f"test_{field}"] = fields[f"test_{field}"][:, :-1]
        else:
            fields[f"test_{field}"][7] = value

    rewritten(shards, damage)
    with pytest.raises(BadFile, match="its arrays do not fit together"):
        load(shards, tmp_path)


# ------------------------------------------------------------------ redirects


def test_redirects_are_followed_and_their_signatures_said_nowhere(
    packed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with web(packed) as (there, gets), web(tmp_path, moved=there) as (here, _):
        data = load(f"{here}/moved", tmp_path / "cache")
        assert_same(epoch(data), epoch(load(packed, tmp_path / "unused")))
        assert sum(times for name, times in gets.items() if name.startswith("train")) == len(
            np.unique(data.train.source.shard_of(data.train.indices))  # type: ignore[attr-defined]
        )
    with serving(giving(b"", code=403)) as host, web(tmp_path, moved=f"http://{host}") as (here, _):
        with pytest.raises(UserError, match="403") as caught:
            load(f"{here}/moved", tmp_path / "cache")
        assert "s3cr3t" not in str(caught.value) + "".join(capfd.readouterr())


# ------------------------------------------------------------------ from any server


@contextmanager
def s3(folder: Path) -> Iterator[tuple[str, Counter[str]]]:
    """A folder in a bucket of moto's server, and how often each of its objects was given."""
    pytest.importorskip("s3fs", reason="s3:// needs s3fs, of the extra [s3]")
    pytest.importorskip(
        "moto.server", reason="the S3 server of this test is moto's: pip install 'moto[s3]' flask flask-cors"
    )
    import boto3
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    gets: Counter[str] = Counter()

    class Counting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "GET /" in (said := record.getMessage()):
                gets[said.partition("GET /")[2].partition(" ")[0].rpartition("/")[2]] += 1

    log, counting = logging.getLogger("werkzeug"), Counting(logging.INFO)
    log.setLevel(logging.INFO)
    log.addHandler(counting)
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    own = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "hunter2", "AWS_DEFAULT_REGION": "us-east-1"}
    try:
        with pytest.MonkeyPatch.context() as patched:
            for name, value in {**own, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
                patched.setenv(name, value)
            client = boto3.client("s3")
            client.create_bucket(Bucket="bucket")
            for path in folder.iterdir():
                client.put_object(Bucket="bucket", Key=f"some/where/{path.name}", Body=path.read_bytes())
            client.close()
            yield "s3://bucket/some/where", gets
    finally:
        server.stop()
        log.removeHandler(counting)


TOKEN = "hf_hunter2"


@contextmanager
def hub(folder: Path, answer: Answer | None = None) -> Iterator[tuple[str, Counter[str]]]:
    """A folder as the dataset me/shards of an endpoint like the hub's, and how often each of its files was given.

    To those who bring the token. Files come from another host, by signed addresses, which must not see it. answer: what
    that host says instead.
    """
    pytest.importorskip("huggingface_hub", reason="hf:// needs the extra [hub]")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.path.partition("?")[0].strip("/")
            if self.headers["Authorization"] != f"Bearer {TOKEN}":
                self._refuse(401, "RepoNotFound")
            elif asked in ("api/datasets/me/shards", "api/datasets/me/shards/revision/main"):
                self._say({"id": "me/shards", "sha": "0" * 40, "siblings": []})
            elif asked == "api/datasets/me/shards/tree/main":
                files = ((path.name, path.stat().st_size) for path in folder.iterdir())
                self._say([{"type": "file", "oid": "0" * 40, "size": size, "path": name} for name, size in files])
            elif asked.startswith("datasets/me/shards/resolve/main/"):
                self.send_response(302)
                self.send_header("Location", f"{there}/{asked.rpartition('/')[2]}?X-Amz-Signature=s3cr3t")
                self.end_headers()
            else:
                missing = [("/tree/", "EntryNotFound"), ("/revision/", "RevisionNotFound"), ("", "RepoNotFound")]
                self._refuse(404, next(code for part, code in missing if part in asked))

        def _say(self, content: object) -> None:
            giving(json.dumps(content).encode(), ("Content-Type", "application/json"))(self)

        def _refuse(self, status: int, code: str) -> None:
            giving(b"", ("X-Error-Code", code), code=status)(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ExitStack() as stack:
        if answer is None:
            there, gets = stack.enter_context(web(folder))
        else:
            there, gets = f"http://{stack.enter_context(serving(answer))}", Counter()
        here = f"http://{stack.enter_context(running(Handler))}"
        patched = stack.enter_context(pytest.MonkeyPatch.context())
        patched.setenv("HF_TOKEN", TOKEN)
        patched.setenv("HF_ENDPOINT", here)  # of processes to come
        patched.setitem(fsspec.config.conf, "hf", {"endpoint": here})
        yield "hf://datasets/me/shards", gets


def held_by(cache: Path) -> int:
    """Bytes of shards in a cache; 0 where one came or went meanwhile."""
    held = set(cache.glob("*.tar"))
    with suppress(FileNotFoundError):
        total = sum(path.stat().st_size for path in held)
        return total if held == set(cache.glob("*.tar")) else 0
    return 0


@pytest.mark.parametrize("serve", [web, s3, hub])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of botocore
def test_a_stream_is_what_the_files_are_in_the_middle_of_an_epoch_too(
    serve: Serve, packed: Path, tmp_path: Path
) -> None:
    assert sum(path.stat().st_size for path in packed.glob("*.tar")) > 1.5 * LIMIT
    near = load(packed, tmp_path / "unused")
    cache = tmp_path / "cache"
    with serve(packed) as (address, gets):  # type: ignore[attr-defined]
        far = load(address, cache)
        batches = far.batches(far.train, epoch=1, **BATCHES)  # type: ignore[arg-type]
        whole, most = [], 0
        for batch in batches:
            whole.append(batch)
            most = max(most, held_by(cache))
        assert_same(whole, epoch(near))
        assert 0.5 * LIMIT < most <= LIMIT
        used = len(np.unique(far.train.source.shard_of(far.train.indices)))  # type: ignore[attr-defined]
        assert sum(times for name, times in gets.items() if name.startswith("train")) == used, "each once"
        shutil.rmtree(cache)  # as on another machine
        gets.clear()
        again = load(address, cache)
        assert again.files == near.files and again.digest == near.digest
        assert_same(epoch(again, start=len(whole) * 2 // 3), whole[len(whole) * 2 // 3 :])
        assert sum(times for name, times in gets.items() if name.startswith("train")) < used, "what is left alone"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_large_objects_of_s3_come_in_parts(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3(packed) as (address, gets):
        from s3fs import S3FileSystem

        monkeypatch.setattr(S3FileSystem, "default_block_size", 30_000)  # else 50 MiB
        far, near = load(address, tmp_path / "cache"), load(packed, tmp_path / "unused")
        assert np.array_equal(far.test.source.read(3), near.test.source.read(3))
        assert gets["test-000000.tar"] > 2
        with pytest.raises(UserError, match=r"data\.cache_gb=2e-05 is less than one shard"):
            replace(far.test.source.cache, limit_bytes=20_000).open(f"{address}/test-000001.tar")  # type: ignore[attr-defined]
        with pytest.raises(BadFile, match=r"cannot fetch 's3://bucket/elsewhere/index\.npz': no such file"):
            load("s3://bucket/elsewhere", tmp_path / "cache")


@pytest.mark.parametrize(
    "answer", [giving(b"<html>", code=403), giving(b"<html>" * 9), giving(b"", length=999), stalling]
)
def test_an_s3_server_that_is_none_is_one_line(
    answer: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3fs = pytest.importorskip("s3fs", reason="s3:// needs s3fs, of the extra [s3]")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setattr(bounds, "SILENT_S", 0.4)
    for name, value in (("ACCESS_KEY_ID", "me"), ("SECRET_ACCESS_KEY", "hunter2"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    with serving(answer) as host:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}")
        with pytest.raises(UserError) as caught:
            load("s3://bucket/where", tmp_path)
    assert "\n" not in str(caught.value) and "hunter2" not in str(caught.value)
    assert not list(tmp_path.rglob("*.*"))


# ------------------------------------------------------------------ from the hub


def test_the_hub_s_token_goes_to_the_hub_alone_and_is_written_nowhere(
    packed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[str | None] = []

    def give(to: BaseHTTPRequestHandler) -> None:
        seen.append(to.headers["Authorization"])
        giving((packed / to.path.partition("?")[0].strip("/")).read_bytes())(to)

    with hub(packed, give) as (address, _):
        data = load(address, tmp_path / "cache")
        assert np.array_equal(data.test.source.read(3), load(packed, tmp_path / "unused").test.source.read(3))
    assert len(seen) > 1 and set(seen) == {None}
    said = "".join(capfd.readouterr()) + repr(data.found) + " ".join(map(str, tmp_path.rglob("*")))
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for secret in (TOKEN, "s3cr3t"):
        assert secret not in said and secret.encode() not in written


@pytest.mark.parametrize(
    ("root", "token", "said"),
    [
        ("hf://datasets/me/other", TOKEN, "repository not found"),
        ("hf://datasets/me/shards", "hf_wrong", "repository not found"),
        ("hf://datasets/me/shards@then", TOKEN, "revision not found"),
        ("hf://datasets/me/shards/elsewhere", TOKEN, "no such file"),
    ],
)
def test_what_the_hub_does_not_have_is_one_line(
    root: str, token: str, said: str, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub(packed):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(BadFile, match=rf"cannot fetch '{root}/index\.npz': .*{said}") as caught:
            load(root, tmp_path)
    assert "\n" not in str(caught.value) and token not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (giving(b"<html>", code=403), "403 Forbidden"),
        (giving(b"<html>" * 9), "54 bytes of"),
        (giving(b"", length=999), "peer closed connection"),
        (giving(bytes(2**16), length=None, times=2**9), "more than 9.53674 MiB"),
        (stalling, "ReadTimeout"),
    ],
    ids=["forbidden", "a page", "cut", "no end", "stalls"],
)
def test_a_hub_whose_files_are_none_is_one_line(
    answer: Answer,
    said: str,
    packed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(bounds, "INDEX_BYTES", 10_000_000)
    with hub(packed, answer) as (address, _):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.4)  # without a byte, else 10 s
        with pytest.raises(UserError, match=said) as caught:
            load(address, tmp_path)
    assert "\n" not in str(caught.value) and not list(tmp_path.rglob("*.*"))
    for secret in (TOKEN, "s3cr3t"):
        assert secret not in str(caught.value) + "".join(capfd.readouterr())


# ------------------------------------------------------------------ killed


SEARCH = [
    *("nas.search", "device=cpu", f"budget_ms={BUDGETS_MS['mbconv']}", "space=space.yaml", "data=webdataset"),
    *("data.resolution=16", "data.limit=120", f"data.cache_gb={LIMIT / 1e9}", "data.shuffle_shards=1"),
    *("warmup.epochs=0", "epochs=1", "finetune.epochs=0", "train.batch_size=16", "rerank=2", "threads=1"),
    *("checkpoint.steps=1", mishap.FORM, "data.cache=cache"),
]


def run(*words: str, cwd: Path) -> tuple[int, str]:
    """The exit status of a command and what it said of errors."""
    done = run_module(words, cwd, {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    return done.returncode, done.stderr


def left_by(folder: Path, root: str) -> dict[str, Any]:
    """What a search leaves, whatever the address of its shards is."""
    left = files_of(folder)
    left["json"] = json.loads(json.dumps(left["json"]).replace(root, "ROOT"))
    tensors = {name: tensor.numpy().tobytes() for name, tensor in load_tensors(left["checkpoint.safetensors"]).items()}
    del tensors["digest"]  # over the address too
    tensors["trained_for"] = tensors["trained_for"].replace(root.encode(), b"ROOT")
    return {**left, "checkpoint.safetensors": tensors}


@pytest.fixture(scope="module")
def unharmed(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a search of local shards leaves."""
    folder = tmp_path_factory.mktemp("unharmed")
    (folder / "space.yaml").write_text(SPACES["mbconv"])
    code, said = run(*SEARCH, f"data.root={packed}", "out=run", cwd=folder)
    assert code == 0, said
    return left_by(folder / "run", str(packed))


@pytest.mark.parametrize("serve", [s3, *(pytest.param(each, marks=pytest.mark.slow) for each in (web, hub))])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_search_that_was_killed_goes_on_from_its_server_as_if_nothing_had_happened(
    serve: Serve, packed: Path, unharmed: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "space.yaml").write_text(SPACES["mbconv"])
    mishap.prepare(tmp_path, rank=0, step=3, words="kill -9 $OWN")
    with serve(packed) as (address, gets):  # type: ignore[attr-defined]
        code, _ = run(*SEARCH, f"data.root={address}", "out=run", cwd=tmp_path)
        assert code == -signal.SIGKILL
        assert list((tmp_path / "run" / "checkpoints").iterdir())
        shutil.rmtree(tmp_path / "cache")  # as on another machine
        gets.clear()
        code, said = run("nas.search", "resume=run", cwd=tmp_path)
        assert code == 0, said
    assert any(name.startswith("train") for name in gets)
    assert left_by(tmp_path / "run", address) == unharmed
