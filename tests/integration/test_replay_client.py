"""The client of ``replay`` against a small service over real HTTP: what it sends, and what it makes of the answers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from stream_ft.errors import ConfigError, StreamFTError
from stream_ft.wiring import replay as module
from stream_ft.wiring.replay import Coverage, percentile, replay, told_labels


class Service:
    """Answers label ``a``; after ``learns_after`` corrections it serves a version that has learned all of them."""

    def __init__(self, *, learns_after: int = 5, token: str = "") -> None:
        self.learns_after = learns_after
        self.token = token
        self.asked: list[str] = []
        self.corrections: list[dict[str, Any]] = []
        self.at: list[tuple[str, float]] = []
        self.told: list[str] = []
        self.heads = False
        """Learns every correction at once, by a head of the fast tier."""
        self.failures: dict[str, list[int]] = {}
        self.happenings: list[dict[str, object]] | None = None
        self.after_predict: list[dict[str, object]] = []
        self.lock = threading.Lock()

    def answer(self, method: str, path: str, authorization: str, body: bytes) -> tuple[int, object]:
        with self.lock:
            self.at.append((path, time.monotonic()))
            if path == "/readyz":
                return self.fail("/readyz") or 200, {}
            if self.token and authorization != f"Bearer {self.token}":
                return 401, {"error": "token"}
            if status := self.fail(path):
                return status, {"error": "asked to fail"}
            if path == "/status":
                learner = None if self.happenings is None else {"time": 1_000.0, "happenings": self.happenings}
                return 200, {"model": "m", "serve": {}, "learn": learner}
            if path == "/versions":
                return 200, {"versions": []}
            if path == "/versions?limit=1":
                self.told.append(path)
                upto = len(self.corrections)
                head = {"version": f"v1.1.{upto}", "offsets": {"stream_ft.m.feedback": upto}, "examples_upto": upto}
                return 200, {"versions": [{"version": "v1.1.0"}], "head": head}
            if path.startswith("/versions/"):
                self.told.append(path)
                learned = self.learns_after if path.endswith("v1.1.0") else 0
                offsets = {"stream_ft.m.feedback": learned, "stream_ft.m.labels": learned, "stream_ft.m.control": 99}
                return 200, {"version": "x", "kept": True, "offsets": offsets, "examples_upto": learned}
            if path == "/predict":
                (text,) = json.loads(body)["inputs"]
                self.asked.append(text)
                if self.happenings is not None:
                    self.happenings += self.after_predict
                    self.after_predict = []
                version = "v1.1.0" if len(self.corrections) >= self.learns_after else "v0.0.0"
                if self.heads and self.corrections:
                    version = f"v1.1.{len(self.corrections)}"
                answer = {"id": f"p-{text}", "label": "a", "score": 0.5}
                return 200, {"model": "m", "version": version, "predictions": [answer]}
            if path in ("/feedback", "/labels"):
                self.corrections.append({"path": path} | json.loads(body))
                return 202, {"accepted": 1, "offsets": [len(self.corrections) - 1]}
        return 404, {"error": "nothing here"}

    def fail(self, path: str) -> int:
        return self.failures[path].pop(0) if self.failures.get(path) else 0


@contextmanager
def serving(service: Service) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            status, content = service.answer(self.command, self.path, self.headers.get("authorization", ""), body)
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = handle_one

        def log_message(self, format: str, *args: object) -> None:
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128  # all may connect at once; five, as it comes, drops one now and then

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """40 rows, three quarters of them ``a``; two phases."""
    rows = [f"t{i},{'b' if i % 4 == 0 else 'a'},{'one' if i < 20 else 'two'}" for i in range(40)]
    path = tmp_path / "file.csv"
    path.write_text("\n".join(["text,label,phase", *rows]))
    return path


def played(file: Path, url: str, **options: Any) -> dict[str, Any]:
    return replay(file, url=url, text_column="text", label_column="label", **({"rate": 400.0} | options))


def test_feedback_names_the_issued_prediction_and_comes_from_several_users(file: Path) -> None:
    service = Service()
    with serving(service) as url:
        summary = played(file, url)
    assert sorted(service.asked) == sorted(f"t{i}" for i in range(40))
    assert sorted(c["prediction_id"] for c in service.corrections) == sorted(f"p-t{i}" for i in range(40))
    assert {c["prediction_id"]: c["label"] for c in service.corrections}["p-t4"] == "b"
    assert all(c["path"] == "/feedback" and "input" not in c for c in service.corrections)
    assert len({c["id"] for c in service.corrections}) == 40
    assert len({c["source"] for c in service.corrections}) > 10
    assert (summary["events"], summary["classes"], summary["dropped_requests"]) == (40, 2, 0)
    assert summary["prequential_accuracy"] == pytest.approx(0.75)
    assert summary["corrections"]["acknowledged"] == 40


def test_labels_bring_their_own_input(file: Path) -> None:
    service = Service()
    with serving(service) as url:
        played(file, url, as_="labels")
    assert sorted(c["input"] for c in service.corrections) == sorted(f"t{i}" for i in range(40))
    assert all(c["path"] == "/labels" and "prediction_id" not in c for c in service.corrections)


def test_corrections_count_as_live_with_the_first_answer_that_has_learned_them(file: Path) -> None:
    service = Service(learns_after=5)
    with serving(service) as url:
        summary = played(file, url)
    assert summary["versions_seen"] == ["v0.0.0", "v1.1.0"]
    assert len(service.told) == 2
    assert summary["corrections"] == {"acknowledged": 40, "lost": 0, "live": 5, "waiting": 35}
    assert 0 <= summary["feedback_to_live_s"]["p50"] <= summary["feedback_to_live_s"]["p99"] < 5


def test_a_head_of_the_fast_tier_tells_what_it_has_learned(file: Path) -> None:
    service = Service()
    service.heads = True
    with serving(service) as url:
        summary = played(file, url, rate=40.0)
    assert summary["versions_seen"][0] == "v0.0.0"
    assert all(version.startswith("v1.1.") for version in summary["versions_seen"][1:])
    assert summary["corrections"]["live"] >= 30
    assert summary["corrections"]["live"] + summary["corrections"]["waiting"] == 40


def test_phases_and_the_summary_on_disk(file: Path, tmp_path: Path) -> None:
    with serving(Service()) as url:
        summary = played(file, url, phase_column="phase", out=tmp_path / "out", limit=30)
    assert summary["prequential_by_phase"] == [
        {"phase": "one", "events": 20, "accuracy": pytest.approx(0.75)},
        {"phase": "two", "events": 10, "accuracy": pytest.approx(0.7)},
    ]
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary
    report = (tmp_path / "out" / "report.html").read_text()
    assert "Replay of file.csv" in report
    assert "two" in report


def test_anything_but_a_2xx_is_dropped_and_counts_as_wrong(file: Path) -> None:
    service = Service()
    service.failures["/predict"] = [500, 429, 422]
    with serving(service) as url:
        summary = played(file, url)
    assert summary["dropped_requests"] == 3
    assert len(service.corrections) == 37
    # of the first three, which were dropped, t0 is a b: 30 right answers less two
    assert summary["prequential_accuracy"] == pytest.approx(28 / 40)


def test_a_correction_is_sent_again_under_its_id_until_it_is_acknowledged(file: Path) -> None:
    service = Service()
    service.failures["/feedback"] = [503, 429]
    with serving(service) as url:
        summary = played(file, url, limit=10)
    assert summary["corrections"]["acknowledged"] == 10
    assert len([path for path, _ in service.at if path == "/feedback"]) == 12


def test_a_correction_that_is_refused_for_good_is_lost_and_not_repeated(file: Path) -> None:
    service = Service()
    service.failures["/feedback"] = [404]
    with serving(service) as url:
        summary = played(file, url, limit=10)
    assert (summary["corrections"]["acknowledged"], summary["corrections"]["lost"]) == (9, 1)
    assert len([path for path, _ in service.at if path == "/feedback"]) == 10


def test_rate_and_delay_are_kept(file: Path) -> None:
    service = Service()
    with serving(service) as url:
        summary = played(file, url, rate=40.0, label_delay=0.4, limit=20)
    asked = [at for path, at in service.at if path == "/predict"]
    told = [at for path, at in service.at if path == "/feedback"]
    assert asked[-1] - asked[0] >= 19 / 40 - 0.02
    assert all(late - early >= 0.39 for early, late in zip(asked, told, strict=True))
    assert summary["wall_s"] >= 19 / 40 + 0.4


def test_noise_is_told_and_not_scored(file: Path) -> None:
    service = Service()
    with serving(service) as url:
        summary = played(file, url, noise=1.0)
    assert summary["prequential_accuracy"] == pytest.approx(0.75)
    assert {c["prediction_id"]: c["label"] for c in service.corrections}["p-t4"] == "a"


def test_a_token(file: Path) -> None:
    with serving(Service(token="secret")) as url:
        assert played(file, url, token="secret", limit=3)["dropped_requests"] == 0
        with pytest.raises(ConfigError, match="another token"):
            played(file, url, token="wrong")


def test_a_service_that_is_not_ready_yet_is_waited_for(file: Path) -> None:
    service = Service()
    service.failures["/readyz"] = [503]
    with serving(service) as url:
        assert played(file, url, limit=3)["dropped_requests"] == 0


def test_a_service_that_never_gets_ready_is_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READY_S", -1.0)
    service = Service()
    service.failures["/readyz"] = [503] * 10
    with serving(service) as url, pytest.raises(StreamFTError, match=r"not ready \(503\)"):
        played(file, url)


def test_another_service_is_told(file: Path) -> None:
    service = Service()
    service.failures["/versions"] = [404]
    with serving(service) as url, pytest.raises(StreamFTError, match="is not stream_ft"):
        played(file, url)


def test_nobody_answers(file: Path) -> None:
    with serving(Service()) as url:
        gone = url
    with pytest.raises(StreamFTError, match="Nobody answers") as caught:
        played(file, gone)
    assert "stream-ft up" in caught.value.remedy


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://127.0.0.1", "http://[", "", "http://127.0.0.1:99999"])
def test_what_is_no_url(file: Path, url: str) -> None:
    with pytest.raises(StreamFTError) as caught:
        played(file, url)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "options", [{"rate": 0.0}, {"rate": -1.0}, {"label_delay": -1.0}, {"noise": 1.5}, {"as_": "rumours"}]
)
def test_options_that_cannot_be_used(file: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        played(file, "http://127.0.0.1:1", **options)


def test_rows_that_no_service_takes_are_not_sent(tmp_path: Path) -> None:
    path = tmp_path / "file.jsonl"
    texts = ["half \ud800", "whole", "", "\u200b", "long " * 5_000]
    path.write_text("".join(json.dumps({"text": text, "label": "a"}) + "\n" for text in texts))
    service = Service()
    with serving(service) as url:
        summary = played(path, url)
    assert service.asked == ["whole"]
    assert (summary["events"], summary["refused_rows"], summary["dropped_requests"]) == (1, 4, 0)


def test_a_file_without_labels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.csv"
    path.write_text("text,label\nhello,\n")
    with pytest.raises(ConfigError, match="has a text and a label"):
        played(path, "http://127.0.0.1:1")


def test_an_output_folder_that_is_a_file_is_told_before_anything_is_sent(file: Path) -> None:
    with pytest.raises(ConfigError, match="is a file, not a folder"):
        played(file, "http://127.0.0.1:1", out=file)


def test_progress_counts_every_event_towards_the_length_of_the_file(file: Path) -> None:
    told: list[tuple[int, int, float]] = []
    service = Service()
    service.failures["/predict"] = [500]
    with serving(service) as url:
        summary = played(file, url, tell=lambda *row: told.append(row))
    assert [done for done, _, _ in told] == list(range(1, 41))
    assert {total for _, total, _ in told} == {40}
    assert told[-1][2] == pytest.approx(summary["prequential_accuracy"])


def happening(kind: str, at: float, **more: object) -> dict[str, object]:
    return {"kind": kind, "text": f"{kind} at {at}", "time": at, **more}


def test_what_happens_meanwhile_is_in_the_summary_and_the_report(file: Path, tmp_path: Path) -> None:
    service = Service()
    service.happenings = [happening("promotion", 999.0, version="v0.2.0", round_kind="head")]
    later = [
        happening("promotion", 1_000.05, version="v0.3.0", round_kind="head", sha256="aa", cpu_s=0.5),
        happening("refusal", 1_000.06, round_kind="lora", sha256="bb", steps=48, cpu_s=2.0),
        happening("drift", 1_000.07, numbers={"kind": "error", "direction": "worse", "size": 0.2}),
        happening("rollback", 2_000.0, version="v0.4.0"),
        happening("note", 2_001.0),
    ]
    service.after_predict = later
    with serving(service) as url:
        summary = played(file, url, out=tmp_path / "out")
    counted = {name: summary[name] for name in ("promotions", "refusals", "rollbacks", "rounds", "train_steps")}
    assert counted == {"promotions": 1, "refusals": 1, "rollbacks": 1, "rounds": 2, "train_steps": 48}
    assert summary["drift_alarms"] == [{"event": 28, "kind": "error", "direction": "worse", "size": 0.2}]
    assert [row["name"] for row in summary["versions"]] == ["v0.3.0", "", "v0.4.0"]
    assert "refusal at 1000.06" in (tmp_path / "out" / "report.html").read_text()


def test_a_service_without_a_learner_tells_nothing_of_rounds(file: Path) -> None:
    with serving(Service()) as url:
        summary = played(file, url, limit=3)
    assert summary["promotions"] is None
    assert summary["versions"] is None


def test_noise_is_of_the_seed() -> None:
    rows = [module.Row(text=str(i), label="abc"[i % 3]) for i in range(3_000)]
    one, same, other = (told_labels(rows, noise=0.1, seed=seed) for seed in (1, 1, 2))
    assert one == same != other
    wrong = sum(label != row.label for label, row in zip(one, rows, strict=True))
    assert 240 < wrong < 360
    assert told_labels(rows, noise=0.0, seed=1) == [row.label for row in rows]
    assert told_labels(rows[:1], noise=1.0, seed=1) == ["a"]


def test_coverage_is_by_offset() -> None:
    coverage = Coverage()
    for offset, at in ((3, 1.0), (1, 2.0), (2, 3.0)):
        coverage.acknowledged(offset, at)
    coverage.answered(1, 4.0)
    assert coverage.latencies_s == []
    coverage.answered(3, 5.0)
    assert coverage.latencies_s == [3.0, 2.0]
    assert coverage.waiting == 1
    coverage.acknowledged(0, 9.0)
    coverage.answered(2, 8.5)
    assert coverage.latencies_s == [3.0, 2.0, 0.0]


def test_percentiles() -> None:
    assert percentile([], 0.5) is None
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([float(i) for i in range(1, 101)], 0.99) == 99.0
    assert percentile([7.0], 0.99) == 7.0


def test_every_name_of_a_summary_is_there_and_rows_without_a_text_are_no_dropped_requests(file: Path) -> None:
    file.write_text(file.read_text() + "\n,a,two\nno label,,two")
    with serving(Service()) as url:
        summary = played(file, url)
    names = (
        "events classes prequential_accuracy prequential_by_phase frozen_accuracy final_test_accuracy"
        " final_test_by_phase promotions refusals rollbacks drift_alarms rounds train_steps train_cpu_s predict_cpu_s"
        " cpu_ms_per_event feedback_to_live_s dropped_requests wall_s peak_rss_mb macro_f1 recall_at_precision_99"
        " versions seed config"
    )
    assert set(names.split()) <= summary.keys()
    assert (summary["events"], summary["refused_rows"], summary["dropped_requests"]) == (40, 2, 0)
    assert summary["macro_f1"] is not None
