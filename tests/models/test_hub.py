"""Sharing on the Hugging Face Hub, against a hub of its protocol on this machine; nothing leaves it."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import absynth
from absynth.errors import AbsynthError
from absynth.inference import CodebookABS
from absynth.inference.codebook import draw_latents
from absynth.models.cnn import CNN, Binarized
from absynth.models.pretrained import CONFIG_NAME, WEIGHTS_NAME, PretrainedModel
from absynth.models.prototypes import NearestNeighbour
from absynth.models.vae import Decoder
from absynth.zoo import model_folder

TOKEN = "a-token-that-may-write"


class Hub(ThreadingHTTPServer):
    """What of the Hub's protocol an upload and a download of small files need."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Requests)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.models: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.read: list[str] = []
        self.private: list[bool] = []

    def commit(self, name: str, files: dict[str, bytes]) -> str:
        """A new version of a model: the files of the last one, with these added or replaced."""
        versions = self.models.setdefault(name, [])
        every = (versions[-1][1] if versions else {}) | files
        commit = hashlib.sha1(f"{name} {len(versions)}".encode()).hexdigest()
        versions.append((commit, every))
        return commit


class Requests(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Hub

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self._answer(401, {"error": "Invalid credentials"})
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.server.models.setdefault(name, [])
            # Older and newer ones of the library say it differently.
            self.server.private.append(asked.get("private") or asked.get("visibility") == "private")
            return self._answer(200, {"url": f"{self.server.address}/{name}"})
        if self.path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        name, action = self.path.removeprefix("/api/models/").rsplit("/", 2)[:2]
        if action == "preupload":
            paths = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
            return self._answer(200, {"files": modes})
        assert action == "commit"
        lines = [json.loads(line) for line in body.splitlines()]
        added = [line["value"] for line in lines if line["key"] == "file"]
        commit = self.server.commit(name, {file["path"]: base64.b64decode(file["content"]) for file in added})
        address = f"{self.server.address}/{name}/commit/{commit}"
        return self._answer(200, {"commitUrl": address, "commitOid": commit, "hookOutput": ""})

    def do_GET(self) -> None:
        self._resolve()

    def do_HEAD(self) -> None:
        self._resolve()

    def _resolve(self) -> None:
        # /user/model/resolve/revision/file, or /api/models/user/model/revision/revision to ask about it.
        asked = self.path.split("?")[0].removeprefix("/api/models").strip("/").split("/")
        user, model, _, revision, file = (
            [*asked, "revision", "main", ""][:5] if len(asked) < 4 else [*asked, ""][:5]
        )
        versions = dict(self.server.models.get(f"{user}/{model}", []))
        if f"{user}/{model}" not in self.server.models:
            return self._answer(404, {}, {"X-Error-Code": "RepoNotFound"})
        commit = list(versions)[-1] if versions and revision == "main" else revision
        if commit not in versions:
            return self._answer(404, {}, {"X-Error-Code": "RevisionNotFound"})
        if not file:
            return self._answer(200, {"id": f"{user}/{model}", "sha": commit})
        if file not in versions[commit]:
            return self._answer(404, {}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        content = versions[commit][file]
        if self.command == "GET":
            self.server.read.append(file)
        tag = hashlib.sha1(content).hexdigest()
        return self._answer(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": commit})

    def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@pytest.fixture
def constants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The library's settings: an empty cache, no token of the user's, no progress bars."""
    found = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(found, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(found, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(found, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return found


@pytest.fixture
def hub(constants: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that is reached instead of the real one."""
    with Hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def make_codebook(make_decoder: Callable[..., Decoder]) -> CodebookABS:
    model = CodebookABS([make_decoder(seed) for seed in range(3)], draw_latents(20))
    model.prepare()
    return model


MODELS: dict[str, Callable[..., PretrainedModel]] = {
    "codebook-abs": make_codebook,
    "binarized": lambda make_decoder: Binarized(make_codebook(make_decoder)),
    "cnn": lambda _: CNN(3),
    "nearest-neighbour": lambda _: NearestNeighbour(torch.rand(9, 1, 28, 28), torch.arange(9) % 3),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_one_user_pushes_another_loads(
    name: str, hub: Hub, make_decoder: Callable[..., Decoder], make_images: Callable[[int], Tensor]
) -> None:
    model = MODELS[name](make_decoder).eval()
    address = absynth.push_to_hub(model, f"someone/{name}", {"command": "absynth train"}, token=TOKEN)
    assert address == f"{hub.address}/someone/{name}"
    files = hub.models[f"someone/{name}"][-1][1]
    assert sorted(files) == ["README.md", "config.json", "model.safetensors"]
    assert f'absynth.load("someone/{name}")' in files["README.md"].decode()
    assert json.loads(files["config.json"])["training"] == {"command": "absynth train"}
    images = make_images(4)
    torch.testing.assert_close(absynth.load(f"someone/{name}")(images), model(images), rtol=1e-6, atol=1e-4)
    assert hub.read == [CONFIG_NAME, WEIGHTS_NAME]


def test_only_the_config_and_the_safetensors_are_downloaded(hub: Hub, tmp_path: Path) -> None:
    CNN(3).save_pretrained(tmp_path / "model")
    files = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    hub.commit("a/b", files | {"pytorch_model.bin": b"a pickle", "setup.py": b"evil()", "other.json": b"{}"})
    folder = model_folder("a/b")
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG_NAME, WEIGHTS_NAME]
    assert hub.read == [CONFIG_NAME, WEIGHTS_NAME]


def test_what_was_downloaded_is_found_without_a_network(
    hub: Hub, constants: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = CNN(3).eval()
    absynth.push_to_hub(model, "a/b", token=TOKEN)
    absynth.load("a/b")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    images = torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(absynth.load("a/b")(images), model(images))
    with pytest.raises(
        AbsynthError, match=r"no folder 'a/c', and the Hugging Face Hub cannot be reached .*check the name"
    ):
        absynth.load("a/c")


def test_a_cache_laid_out_by_hand_is_enough(
    constants: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it comes to a machine that has never had a network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    commit = "0" * 40
    stored = tmp_path / "cache" / "models--a--b"
    model = CNN(3).eval()
    model.save_pretrained(stored / "snapshots" / commit)
    (stored / "refs").mkdir()
    (stored / "refs" / "main").write_text(commit)
    images = torch.rand(2, 1, 28, 28)
    for name in ("a/b", f"a/b@{commit}"):
        torch.testing.assert_close(absynth.load(name)(images), model(images))


def test_a_revision_is_kept_to_and_a_card_is_left_alone(hub: Hub) -> None:
    first, second = CNN(3).eval(), CNN(4).eval()
    absynth.push_to_hub(first, "a/b", token=TOKEN, private=True)
    commit = hub.commit("a/b", {"README.md": b"My own words."})
    absynth.push_to_hub(second, "a/b", token=TOKEN)
    assert hub.models["a/b"][-1][1]["README.md"] == b"My own words."
    assert hub.private == [True, False]
    images = torch.rand(1, 1, 28, 28)
    assert absynth.load("a/b")(images).shape == (1, 4)
    torch.testing.assert_close(absynth.load(f"a/b@{commit}")(images), first(images))
    with pytest.raises(AbsynthError, match="no such model on the Hugging Face Hub; check the name"):
        absynth.load("a/b@v9")


def test_a_folder_wins_over_the_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CNN(3).save_pretrained(tmp_path / "a" / "b")
    monkeypatch.chdir(tmp_path)
    absynth.load("a/b")
    absynth.load(Path("a/b"))
    with pytest.raises(AbsynthError, match="There is no model 'a/c'"):
        absynth.load(Path("a/c"))
    assert hub.read == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"pytorch_model.bin": b"a pickle"}, "lacks config.json or model.safetensors; absynth loads what"),
        ({CONFIG_NAME: b'{"type": "cnn", "classes": 3}', "model.bin": b"a pickle"}, "and no pickles"),
        (
            {CONFIG_NAME: b'{"model_type": "bert"}', WEIGHTS_NAME: b"large"},
            "names the type 'None'; known types",
        ),
        ({CONFIG_NAME: b"[]"}, "must hold a JSON object"),
        ({CONFIG_NAME: b'{"type": "cnn", "weights": "../../x.safetensors"}'}, "has its weights elsewhere"),
        ({CONFIG_NAME: b'{"type": "cnn", "classes": 3}', WEIGHTS_NAME: b"a pickle"}, "no intact safetensors"),
    ],
)
def test_what_is_no_model_of_ours_is_refused(hub: Hub, files: dict[str, bytes], message: str) -> None:
    hub.commit("a/b", files)
    with pytest.raises(AbsynthError, match=message):
        absynth.load("a/b")
    assert set(hub.read) <= {CONFIG_NAME, WEIGHTS_NAME}
    assert WEIGHTS_NAME not in hub.read or b"cnn" in files[CONFIG_NAME]


def test_no_such_model(hub: Hub) -> None:
    with pytest.raises(
        AbsynthError, match=r"no folder 'a/b', and no such model .*; check the name, or log in"
    ):
        absynth.load("a/b")


def test_no_network(constants: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = "http://127.0.0.1:1"
    monkeypatch.setattr(constants, "ENDPOINT", nobody)
    template = nobody + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    with pytest.raises(
        AbsynthError, match=r"no folder 'a/b', and the Hugging Face Hub cannot be reached .*check the name"
    ):
        absynth.load("a/b")
    with pytest.raises(AbsynthError, match=r"did not take a/b \(.*\); log in with 'hf auth login'"):
        absynth.push_to_hub(CNN(3), "a/b", token=TOKEN)


@pytest.mark.parametrize("token", ["another", None])
def test_a_token_that_may_not_write(hub: Hub, token: str | None) -> None:
    with pytest.raises(AbsynthError, match=r"did not take a/b \(.*\); log in with 'hf auth login'"):
        absynth.push_to_hub(CNN(3), "a/b", token=token)
    assert not hub.models


@pytest.mark.parametrize("name", ["name", "user/name/more", "user/name@main", "../name"])
def test_a_name_that_is_none(constants: Any, name: str) -> None:
    with pytest.raises(AbsynthError, match="give one like user/name"):
        absynth.push_to_hub(CNN(3), name)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(AbsynthError, match=r"no folder 'a/b'; .*pip install 'absynth\[hub\]'"):
        absynth.load("a/b")
    with pytest.raises(AbsynthError, match=r"pip install 'absynth\[hub\]'"):
        absynth.push_to_hub(CNN(3), "a/b")


def test_the_command_line_tells_it_in_one_sentence(hub: Hub, fails: Callable[..., str]) -> None:
    said = fails("attack", "--model", "someone/nothing").strip()
    assert said.startswith("Error: There is no folder 'someone/nothing', and no such model")
