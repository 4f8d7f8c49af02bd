"""A store on an object server, which is one of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from absynth.errors import AbsynthError
from absynth.evaluate.runner import run_benchmark
from absynth.evaluate.store import ResultStore
from absynth.evaluate.tasks import Preset
from absynth.progress import Progress

PRESET = Preset(("one",), "quick", {"l2": ("fgm",), "linf": ("fgsm",)}, 4, 10, shard=2)

pytestmark = pytest.mark.filterwarnings("ignore")  # of the server and the client


def load_model(_: str) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty bucket on a server of this machine."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "anything")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("NO_PROXY", host)
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().makedirs("results", exist_ok=True)
    yield "s3://results/quick"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_a_benchmark_on_an_object_server_goes_on_and_has_the_same_records(
    bucket: str, progress: Progress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = run_benchmark(PRESET, ResultStore(tmp_path), progress, load_model=load_model)
    there = run_benchmark(PRESET, ResultStore(bucket), progress, load_model=load_model)
    assert there.records == here.records
    monkeypatch.setattr(ResultStore, "put", lambda *_: pytest.fail("this was done already"))
    again = run_benchmark(PRESET, ResultStore(bucket), progress, load_model=load_model)
    assert again.records == here.records
    store = ResultStore(bucket)
    for task in there.tasks:
        assert torch.equal(store.adversarials(task), ResultStore(tmp_path).adversarials(task))


def test_damage_and_a_bucket_that_is_not_there_are_told(bucket: str) -> None:
    store = ResultStore(bucket)
    store.write("seconds", "one.json", b"{")
    with pytest.raises(AbsynthError, match=r"s3://results/quick/seconds/one\.json is damaged"):
        store.get_json("seconds", "one")
    assert store.get_json("seconds", "two") is None
    with pytest.raises(AbsynthError, match=r"s3://elsewhere/quick/kind/name cannot be written"):
        ResultStore("s3://elsewhere/quick").write("kind", "name", b"all")
