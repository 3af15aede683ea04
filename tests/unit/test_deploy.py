"""The files of deploy/: what checkers say of them, and that they fit the program and each other."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from stream_ft import config
from stream_ft.topics import KINDS

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
DOCKERFILES = sorted((DEPLOY / "docker").glob("*.Dockerfile"))
ROLES = ("serve", "learn", "ingest")
PORTS = {"serve": 8080, "learn": 8081, "ingest": 8082}
KUSTOMIZATIONS = ("base", "overlays/gpu", "overlays/sasl")
BIN = Path(sys.executable).parent


def run(*command: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120, **more)


def settings_of(environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> config.Settings:
    """What the program makes of an environment; a name that is no setting fails."""
    known = {f"STREAM_FT_{name.replace('.', '__').upper()}" for name in config.flatten(config.load().model_dump())}
    for name, value in environment.items():
        if name.startswith("STREAM_FT_"):
            assert name in known, f"{name} is no setting"
            monkeypatch.setenv(name, value)
    return config.load()


# --- compose -----------------------------------------------------------------------------------------------------


def filled(text: str) -> str:
    """``${NAME:-default}`` as its default, ``${NAME:?...}`` as a word."""
    text = re.sub(r"\$\{\w+:\?[^}]*\}", "given", text)
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(filled(COMPOSE.read_text("utf-8")))["services"]
    return found


OURS = {name: one for name, one in services().items() if str(one["image"]).startswith("stream-ft/")}


def test_compose_is_what_the_specification_says() -> None:
    checker = (BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec")
    done = run(*checker, COMPOSE)
    assert done.returncode == 0, done.stdout


def test_the_checker_of_compose_sees_a_fault(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text("services: {a: {image: x, ports: 80}}\n")
    checker = (BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec")
    assert run(*checker, tmp_path / "compose.yaml").returncode != 0


def test_compose_has_every_part() -> None:
    assert {"kafka", "serve-1", "serve-2", "learn", "ingest", "prometheus", "grafana", "replayer"} == set(services())
    assert services()["replayer"]["profiles"] == ["traffic"]
    assert "controller" in services()["kafka"]["environment"]["KAFKA_PROCESS_ROLES"], "KRaft"


def test_what_a_service_depends_on_is_there_and_has_a_health_check() -> None:
    for name, one in services().items():
        for other, condition in one.get("depends_on", {}).items():
            assert other in services(), name
            assert condition["condition"] != "service_healthy" or "healthcheck" in services()[other]


def test_volumes_secrets_and_mounted_files_are_there() -> None:
    whole = yaml.safe_load(filled(COMPOSE.read_text("utf-8")))
    for one in whole["services"].values():
        for volume in one.get("volumes", ()):
            source = volume.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in whole["volumes"], source
        assert set(one.get("secrets", ())) <= set(whole["secrets"])


def test_nothing_is_published_beyond_this_machine_and_no_image_is_whatever_is_latest() -> None:
    for one in services().values():
        assert all(str(port).startswith("127.0.0.1:") for port in one.get("ports", ()))
        tag = str(one["image"]).rpartition(":")[2]
        assert tag not in ("", "latest", one["image"])


@pytest.mark.parametrize("name", OURS)
def test_the_program_reads_the_environment_of_compose(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings_of(OURS[name]["environment"], monkeypatch)
    role = OURS[name]["command"][0]
    assert found.broker == "kafka://kafka:9092"
    assert found.ingest.redact
    if role in ROLES:
        section = getattr(found, role)
        assert (section.host, section.port) == ("0.0.0.0", PORTS[role])
        assert str(PORTS[role]) in " ".join(OURS[name]["healthcheck"]["test"])
    if role == "serve":
        assert found.serve.token
        assert found.serve.learner_url == "http://learn:8081"
        assert found.serve.key_file.startswith(next(v for v in OURS[name]["volumes"] if "registry:" in v).split(":")[1])
    if role == "learn":
        assert found.learn.reads == "ingested"


def test_everything_that_must_be_given_is_in_the_example() -> None:
    asked = set(re.findall(r"\$\{(\w+):[?-]", COMPOSE.read_text("utf-8")))
    offered = set(re.findall(r"^(\w+)=", (DEPLOY / "env.example").read_text("utf-8"), re.MULTILINE))
    assert asked == offered


def test_the_replayer_replays_what_is_there() -> None:
    replayer = services()["replayer"]
    source = replayer["volumes"][0].split(":")[0]
    header = (DEPLOY / source).read_text("utf-8").splitlines()[0].split("\t")
    columns = [word.partition("=")[2] for word in replayer["command"] if "-column=" in word]
    assert set(columns) <= set(header)


# --- images ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_a_dockerfile_has_no_fault_that_hadolint_knows(path: Path) -> None:
    done = run(BIN / "hadolint", "--failure-threshold", "style", path)
    assert done.returncode == 0, done.stdout


def test_hadolint_sees_a_fault(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM python:latest\nRUN pip install x\n")
    assert run(BIN / "hadolint", tmp_path / "Dockerfile").returncode != 0


def test_each_role_has_an_image_that_runs_as_nobody_special() -> None:
    assert {path.stem for path in DOCKERFILES} == set(ROLES)
    for path in DOCKERFILES:
        text = path.read_text("utf-8")
        assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["10001:10001"]
        assert re.findall(r"^EXPOSE (.*)$", text, re.MULTILINE) == [str(PORTS[path.stem])]
        assert f'CMD ["{path.stem}"]' in text
        assert "-slim" in text


def test_the_two_that_run_a_model_are_built_alike() -> None:
    one, other = ((DEPLOY / "docker" / f"{role}.Dockerfile").read_text("utf-8") for role in ("serve", "learn"))
    stage = re.compile(r"^ARG PYTHON.*?(?=^FROM \S+$)", re.MULTILINE | re.DOTALL)
    found = [stage.search(text) for text in (one, other)]
    assert found[0] is not None
    assert found[1] is not None
    assert found[0][0] == found[1][0]
    assert "TORCH_INDEX" in found[0][0]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_the_build_context_has_what_is_copied(path: Path) -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line]
    assert lines[0] == "*"
    allowed = [line[1:] for line in lines if line.startswith("!")]
    for words in re.findall(r"^COPY (?!--from)(.*)$", path.read_text("utf-8"), re.MULTILINE):
        for source in words.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert any(fnmatch.fnmatch(source, pattern) for pattern in allowed), source


def closure(names: list[str]) -> set[str]:
    """Distributions that these need, themselves included."""
    seen: set[str] = set()
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in seen:
            continue
        seen.add(name)
        for text in metadata.requires(name) or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                waiting.append(needed.name)
    return seen


def test_the_small_image_has_all_that_ingest_imports() -> None:
    """Everything but its packages and what they need is hidden, and the worker's modules are imported."""
    pytest.importorskip("faust", reason="Faust is not installed")
    lines = (DEPLOY / "docker" / "ingest.txt").read_text("utf-8").splitlines()
    listed = [line for line in lines if line and not line.startswith("#")]
    there = closure([*listed, "faust-streaming"]) | {"stream-ft"}
    assert not {"torch", "transformers", "onnxruntime"} & there
    hidden = sorted(
        module
        for module, names in metadata.packages_distributions().items()
        if not {canonicalize_name(name) for name in names} & there
    )
    assert {"torch", "scipy", "river"} <= set(hidden)
    code = f"""
import sys
class Hidden:
    names = set({hidden!r})
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError("hidden: " + name, name=name)
sys.meta_path.insert(0, Hidden())
import stream_ft.cli, stream_ft.wiring.ingest, stream_ft.connectors.faust_worker, stream_ft.connectors.kafka
import stream_ft.ingest.redact, stream_ft.wiring.redacting
from stream_ft.config import load
from stream_ft.wiring.broker import open_event_log
load()
"""
    done = run(sys.executable, "-c", code, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]


# --- Kubernetes --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Each kustomization as one file."""
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl (apt install kubernetes-client)")
    folder = tmp_path_factory.mktemp("kustomize")
    found = {}
    for name in KUSTOMIZATIONS:
        done = run("kubectl", "kustomize", DEPLOY / "kubernetes" / name)
        assert done.returncode == 0, done.stderr
        found[name] = folder / f"{name.replace('/', '-')}.yaml"
        found[name].write_text(done.stdout)
    return found


def objects(path: Path) -> Iterator[dict[str, Any]]:
    yield from (one for one in yaml.safe_load_all(path.read_text("utf-8")) if one)


def workloads(path: Path) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in objects(path) if one["kind"] in ("Deployment", "StatefulSet")}


def container(workload: Mapping[str, Any]) -> dict[str, Any]:
    (only,) = workload["spec"]["template"]["spec"]["containers"]
    return dict(only)


@pytest.mark.parametrize("name", [*KUSTOMIZATIONS, "secrets"])
def test_every_object_is_one_of_kubernetes(name: str, built: Mapping[str, Path]) -> None:
    path = DEPLOY / "kubernetes" / "secrets.example.yaml" if name == "secrets" else built[name]
    done = run(BIN / "kubernetes-validate", "--strict", "-k", "1.32", path)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line]
    assert len(lines) == len(list(objects(path)))
    assert all(" passed " in line for line in lines)


def test_the_checker_of_kubernetes_sees_a_fault(built: Mapping[str, Path], tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(built["base"].read_text().replace("minReplicas:", "minReplica:"))
    assert run(BIN / "kubernetes-validate", "--strict", "-k", "1.32", tmp_path / "bad.yaml").returncode != 0


@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_the_program_reads_the_environment_of_the_pods(
    name: str, built: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = {one["metadata"]["name"]: one["data"] for one in objects(built[name]) if one["kind"] == "ConfigMap"}
    assert set(workloads(built[name])) == set(ROLES)
    for role, workload in workloads(built[name]).items():
        pod = container(workload)
        environment = dict(maps[pod["envFrom"][0]["configMapRef"]["name"]])
        environment |= {one["name"]: str(one.get("value", "given")) for one in pod.get("env", ())}
        with monkeypatch.context() as patched:
            found = settings_of(environment, patched)
        assert pod["args"] == [role]
        assert getattr(found, role).host == "0.0.0.0"
        assert getattr(found, role).port == pod["ports"][0]["containerPort"] == PORTS[role]
        assert found.learn.reads == "ingested"
        assert any(mount["mountPath"] == found.state_dir for mount in pod["volumeMounts"])


@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_pods_are_probed_limited_and_may_do_nothing_special(name: str, built: Mapping[str, Path]) -> None:
    for workload in workloads(built[name]).values():
        pod = container(workload)
        ports = {port["name"] for port in pod["ports"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert pod[probe]["httpGet"]["port"] in ports
        assert pod["livenessProbe"]["httpGet"]["path"] == "/livez", "a broker that is away must not restart anybody"
        assert pod["resources"]["requests"]["cpu"]
        assert pod["resources"]["limits"]["memory"]
        assert pod["securityContext"]["readOnlyRootFilesystem"]
        assert not pod["securityContext"]["allowPrivilegeEscalation"]
        assert workload["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"]
        assert ":" in pod["image"]
        mounted = {mount["name"] for mount in pod["volumeMounts"]}
        volumes = {one["name"] for one in workload["spec"]["template"]["spec"]["volumes"]}
        volumes |= {one["metadata"]["name"] for one in workload["spec"].get("volumeClaimTemplates", ())}
        assert mounted == volumes


@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_selectors_find_the_pods_and_policies_open_their_ports(name: str, built: Mapping[str, Path]) -> None:
    pods = {
        role: one["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"]
        for role, one in workloads(built[name]).items()
    }
    assert pods == {role: role for role in ROLES}
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for one in objects(built[name]):
        by_kind.setdefault(one["kind"], []).append(one)
    for service in by_kind["Service"]:
        assert service["spec"]["selector"] == {"app.kubernetes.io/name": service["metadata"]["name"]}
    (budget,) = by_kind["PodDisruptionBudget"]
    (scaler,) = by_kind["HorizontalPodAutoscaler"]
    assert budget["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"] == "serve"
    assert scaler["spec"]["scaleTargetRef"]["name"] == "serve"
    assert budget["spec"]["minAvailable"] < scaler["spec"]["minReplicas"]
    assert "replicas" not in workloads(built[name])["serve"]["spec"], "each apply would undo what the scaler did"
    learner = next(one for one in by_kind["Service"] if one["metadata"]["name"] == "learn")
    assert learner["spec"]["publishNotReadyAddresses"], "serve shows why a learner is not ready"
    policies = {one["metadata"]["name"]: one["spec"] for one in by_kind["NetworkPolicy"]}
    assert policies["nothing-else"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for role in ROLES:
        assert policies[role]["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": role}
        assert [port["port"] for rule in policies[role]["ingress"] for port in rule["ports"]] == [PORTS[role]]


def test_the_scaler_reads_a_series_that_there_is(built: Mapping[str, Path]) -> None:
    from stream_ft import metrics

    registry = metrics.new_registry()
    metrics.ServeMetrics(registry)
    there = {sample.name for family in registry.collect() for sample in family.samples}
    (scaler,) = [one for one in objects(built["base"]) if one["kind"] == "HorizontalPodAutoscaler"]
    (metric,) = [one["pods"]["metric"]["name"] for one in scaler["spec"]["metrics"]]
    assert metric in there
    (rule,) = yaml.safe_load((DEPLOY / "kubernetes" / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    assert re.fullmatch(rule["name"]["matches"], metric)
    assert rule["seriesQuery"].startswith(metric)


@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_every_secret_has_its_form_in_the_example_and_none_is_committed(name: str, built: Mapping[str, Path]) -> None:
    offered = {
        one["metadata"]["name"]: set(one["stringData"])
        for one in objects(DEPLOY / "kubernetes" / "secrets.example.yaml")
    }
    values = [
        value
        for one in objects(DEPLOY / "kubernetes" / "secrets.example.yaml")
        for key, value in one["stringData"].items()
        if key != "username"
    ]
    assert set(values) == {"FILL-IN"}
    assert not [one for one in objects(built[name]) if one["kind"] == "Secret"]
    for workload in workloads(built[name]).values():
        for variable in container(workload).get("env", ()):
            if (reference := variable.get("valueFrom", {}).get("secretKeyRef")) is not None:
                assert reference["key"] in offered[reference["name"]]
        for volume in workload["spec"]["template"]["spec"]["volumes"]:
            if (secret := volume.get("secret")) is not None:
                assert {item["key"] for item in secret["items"]} <= offered[secret["secretName"]]


def test_each_role_has_its_own_principal_and_only_the_learner_a_gpu(built: Mapping[str, Path]) -> None:
    principals = {}
    for role, workload in workloads(built["overlays/sasl"]).items():
        variables = {one["name"]: one for one in container(workload)["env"]}
        principals[role] = variables["STREAM_FT_KAFKA__USERNAME"]["valueFrom"]["secretKeyRef"]["name"]
    assert principals == {role: f"kafka-{role}" for role in ROLES}
    gpus = {
        role: container(workload)["resources"]["limits"].get("nvidia.com/gpu")
        for role, workload in workloads(built["overlays/gpu"]).items()
    }
    assert gpus == {"serve": None, "learn": "1", "ingest": None}


# --- Prometheus --------------------------------------------------------------------------------------------------


def test_prometheus_scrapes_every_service_of_compose(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("there is no promtool (apt install prometheus)")
    told = yaml.safe_load((DEPLOY / "prometheus" / "compose.yml").read_text("utf-8"))
    targets = {target for job in told["scrape_configs"] for one in job["static_configs"] for target in one["targets"]}
    assert targets == {
        f"{name}:{PORTS[str(one['command'][0])]}" for name, one in OURS.items() if one["command"][0] in ROLES
    }
    for job in told["scrape_configs"]:
        if (held := job.get("authorization")) is not None:
            assert held["credentials_file"] == "/run/secrets/token"
            held["credentials_file"] = str(tmp_path / "token")
    (tmp_path / "token").write_text("sesame")
    (tmp_path / "alerts.yml").write_bytes((DEPLOY / "prometheus" / "alerts.yml").read_bytes())
    (tmp_path / "compose.yml").write_text(yaml.safe_dump(told))
    done = run("promtool", "check", "config", tmp_path / "compose.yml")
    assert done.returncode == 0, done.stderr


def test_prometheus_finds_the_pods_of_every_role_and_names_them_as_alerts_and_scaler_ask(
    built: Mapping[str, Path], tmp_path: Path
) -> None:
    told = yaml.safe_load((DEPLOY / "prometheus" / "kubernetes.yml").read_text("utf-8"))
    jobs = {job["job_name"]: job for job in told["scrape_configs"]}
    compose = yaml.safe_load((DEPLOY / "prometheus" / "compose.yml").read_text("utf-8"))
    assert set(jobs) == {job["job_name"] for job in compose["scrape_configs"]}
    pods = workloads(built["base"])
    for role in ROLES:
        (found,) = jobs[f"stream-ft-{role}"]["kubernetes_sd_configs"]
        (selector,) = found["selectors"]
        name, _, value = selector["label"].partition("=")
        assert pods[role]["spec"]["template"]["metadata"]["labels"][name] == value == role
        assert found["namespaces"]["names"] == [pods[role]["metadata"]["namespace"]]
        given = {rule.get("target_label") for rule in jobs[f"stream-ft-{role}"]["relabel_configs"]}
        assert {"namespace", "pod", "model"} <= given
        (kept,) = (one["regex"] for one in jobs[f"stream-ft-{role}"]["relabel_configs"] if one.get("action") == "keep")
        assert kept in {port["name"] for port in container(pods[role])["ports"]}
    assert "authorization" in jobs["stream-ft-serve"], "with a token, /metrics of a server wants it"
    if shutil.which("promtool") is None:
        pytest.skip("there is no promtool (apt install prometheus)")
    (tmp_path / "alerts.yml").write_bytes((DEPLOY / "prometheus" / "alerts.yml").read_bytes())
    jobs["stream-ft-serve"]["authorization"]["credentials_file"] = str(tmp_path / "token")
    (tmp_path / "token").write_text("sesame")
    for job in jobs.values():  # Debian's Prometheus is built without this discovery: the rest is checked
        del job["kubernetes_sd_configs"]
        job["static_configs"] = [{"targets": ["pod:80"]}]
    (tmp_path / "kubernetes.yml").write_text(yaml.safe_dump(told))
    done = run("promtool", "check", "config", tmp_path / "kubernetes.yml")
    assert done.returncode == 0, done.stderr


# --- Kafka -------------------------------------------------------------------------------------------------------


def test_rights_are_given_to_the_principals_of_the_secrets_and_on_every_topic() -> None:
    text = (DEPLOY / "kafka" / "acls.sh").read_text("utf-8")
    defaults = set(re.findall(r":-User:([\w-]+)\}", text))
    secrets = [one["stringData"] for one in objects(DEPLOY / "kubernetes" / "secrets.example.yaml")]
    assert {one["username"] for one in secrets if "username" in one} <= defaults
    given: dict[str, set[str]] = {}
    for who, operations, kinds in re.findall(
        r'^allow "?\$\{?(\w+)[^"]*"? "([\w ]+)" \$\(topics ([\w ]+)\)', text, re.MULTILINE
    ):
        for operation in operations.split():
            given.setdefault(operation, set()).update(f"{who.lower()} {kind}" for kind in kinds.split())
    assert {word.split()[1] for word in given["Create"]} == set(KINDS)
    writers = {word.split()[0] for word in given["Write"] if word.endswith(" control")}
    assert writers == {"learn", "operator"}
