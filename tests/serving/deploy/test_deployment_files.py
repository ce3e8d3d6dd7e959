"""Files in `serving/`: they parse, agree, and query existing metrics."""

import json
import re
from pathlib import Path

import pytest
import yaml

from recdistill.pipeline.runs.drift_metrics import METRICS as DRIFT_METRICS
from recdistill.serving.deploy.batching_config import read_batching
from recdistill.serving.deploy.model_server import (
    COUNTERS,
    HISTOGRAMS,
    as_shell,
    metric_names,
    server_arguments,
)
from recdistill.serving.deploy.model_server_process import IMAGE
from recdistill.serving.deploy.models_config import METRICS_PATH, Models

FOLDER = Path(__file__).parents[3] / "serving"
YAML = sorted(p for p in FOLDER.rglob("*") if p.suffix in (".yml", ".yaml"))
DASHBOARD = FOLDER / "grafana" / "dashboards" / "model_server.json"
METRIC = re.compile(r"(:[a-z:_]+)(\{[^}]*\})?")


def load(*path):
    return yaml.safe_load(FOLDER.joinpath(*path).read_text(encoding="utf-8"))


def scraped(name):
    jobs = load("prometheus.yml")["scrape_configs"]
    return next(job for job in jobs if job["job_name"] == name)


@pytest.fixture(scope="module")
def compose():
    return load("docker-compose.yml")["services"]


@pytest.fixture(scope="module")
def pod():
    return load("k8s", "deployment.yaml")["spec"]["template"]


@pytest.fixture(scope="module")
def dashboard():
    return json.loads(DASHBOARD.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", YAML, ids=lambda p: p.name)
def test_every_yaml_file_is_a_mapping(path):
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


def test_images_are_pinned_and_the_model_server_is_the_same_everywhere(compose, pod):
    for service in compose.values():
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"])
    assert compose["model-server"]["image"] == IMAGE
    assert pod["spec"]["containers"][0]["image"] == IMAGE


def test_models_and_configuration_are_mounted_read_only(compose, pod):
    mounts = {m["target"]: m for m in compose["model-server"]["volumes"]}
    assert mounts["/models"]["read_only"] and mounts["/config"]["read_only"]
    mounts = {m["mountPath"]: m for m in pod["spec"]["containers"][0]["volumeMounts"]}
    assert mounts["/models"]["readOnly"] and mounts["/config"]["readOnly"]
    # A file mounted by subPath is not updated when it is replaced.
    assert not any("subPath" in mount for mount in mounts.values())


def test_the_server_is_started_by_the_generated_command(compose, pod):
    command = ["/bin/sh", "/config/model_server.sh"]
    assert compose["model-server"]["entrypoint"] == command
    assert pod["spec"]["containers"][0]["command"] == command


def test_the_health_check_requires_a_loaded_model(compose):
    check = compose["model-server"]["healthcheck"]["test"]
    assert check[:3] == ["CMD", "bash", "-c"]
    assert "/v1/models/" in check[3] and '"AVAILABLE"' in check[3]


def test_ports_are_published_on_loopback_only(compose):
    for service in compose.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_prometheus_scrapes_the_metrics_page(compose):
    job = scraped("model-server")
    assert job["metrics_path"] == METRICS_PATH
    (target,) = job["static_configs"][0]["targets"]
    host, port = target.split(":")
    assert host in compose
    assert f"127.0.0.1:{port}:{port}" in compose[host]["ports"]
    annotations = load("k8s", "deployment.yaml")["spec"]["template"]["metadata"]
    assert annotations["annotations"]["prometheus.io/path"] == METRICS_PATH


def test_prometheus_keeps_every_known_metric():
    job = scraped("model-server")
    (rule,) = job["metric_relabel_configs"]
    assert all(re.fullmatch(rule["regex"], name) for name in metric_names())


def test_prometheus_scrapes_the_textfiles_of_drift(compose):
    job = scraped("drift")
    (rule,) = job["metric_relabel_configs"]
    assert all(re.fullmatch(rule["regex"], name) for name in DRIFT_METRICS)
    host, _ = job["static_configs"][0]["targets"][0].split(":")
    (mount,) = compose[host]["volumes"]
    assert (
        f"--collector.textfile.directory={mount['target']}" in compose[host]["command"]
    )
    assert mount["read_only"]


def expressions(dashboard):
    asked = [t["expr"] for p in dashboard["panels"] for t in p["targets"]]
    variables = [v["definition"] for v in dashboard["templating"]["list"]]
    return asked + variables


def test_the_dashboard_queries_existing_metrics(dashboard):
    asked = {
        name
        for expression in expressions(dashboard)
        for name, _ in METRIC.findall(expression)
    }
    assert asked
    assert asked <= metric_names(), asked - metric_names()
    drift = set(re.findall("recdistill_[a-z_]+", " ".join(expressions(dashboard))))
    assert drift and drift <= set(DRIFT_METRICS)


def test_the_dashboard_counts_versions_without_a_finished_warm_up(dashboard):
    """A failed warm-up is a successful load without a series of its own."""
    (panel,) = [p for p in dashboard["panels"] if "Failed" in p["title"]]
    (target,) = panel["targets"]
    attempts, _, warm_ups = target["expr"].rpartition(" unless on (")
    assert attempts.count(":tensorflow:cc:saved_model:load_attempt_count") == 3
    assert "status" not in attempts
    assert warm_ups.startswith(
        "instance, model_path) :tensorflow:serving:model_warmup_latency_count"
    )


def test_the_dashboard_filters_and_groups_by_existing_labels(dashboard):
    labels = {**COUNTERS}
    for name, own in HISTOGRAMS.items():
        labels |= {name + suffix: own for suffix in ("_sum", "_count")}
        labels[name + "_bucket"] = (*own, "le")
    for expression in expressions(dashboard):
        for name, selector in METRIC.findall(expression):
            used = set(re.findall(r"(\w+)[=!]~?\"", selector))
            assert used <= set(labels[name]), expression
            for group in re.findall(r"by \(([^)]*)\) \(rate\(" + name, expression):
                assert {g.strip() for g in group.split(",")} <= set(labels[name])


def test_quantiles_are_computed_from_buckets(dashboard):
    for expression in expressions(dashboard):
        if "histogram_quantile" in expression:
            assert "_bucket" in expression and "le" in expression


def test_grafana_is_configured_with_the_dashboard(compose, dashboard):
    source = load("grafana", "provisioning", "datasources", "prometheus.yml")
    assert source["datasources"][0]["uid"] == "prometheus"
    used = {panel["datasource"]["uid"] for panel in dashboard["panels"]}
    assert used == {"prometheus"}
    mounts = {m["target"] for m in compose["grafana"]["volumes"] if isinstance(m, dict)}
    (provider,) = load("grafana", "provisioning", "dashboards", "files.yml")[
        "providers"
    ]
    assert provider["options"]["path"] in mounts
    home = compose["grafana"]["environment"][
        "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"
    ]
    assert Path(home).name == DASHBOARD.name


def test_panels_have_unique_ids_and_do_not_overlap(dashboard):
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], sum_of(panel, "x", "w"))
        for y in range(panel["gridPos"]["y"], sum_of(panel, "y", "h"))
    ]
    assert len(cells) == len(set(cells))
    assert all(sum_of(panel, "x", "w") <= 24 for panel in panels)


def sum_of(panel, start, size):
    return panel["gridPos"][start] + panel["gridPos"][size]


def test_the_example_config_map_has_generated_files(tmp_path):
    data = load("k8s", "configmap.yaml")["data"]
    path = tmp_path / "batching.config"
    path.write_text(data["batching.config"])
    batching = read_batching(path)
    command = as_shell(server_arguments("/config", batching))
    assert data["model_server.sh"] == f"#!/bin/sh\nexec {command}\n"
    assert METRICS_PATH in data["monitoring.config"]
    (name,) = Models(data["models.config"]).names
    container = load("k8s", "deployment.yaml")["spec"]["template"]["spec"][
        "containers"
    ][0]
    for probe in ("startupProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["path"] == f"/v1/models/{name}"


def test_the_config_map_matches_the_cores_of_the_pod(pod, tmp_path):
    data = load("k8s", "configmap.yaml")["data"]
    path = tmp_path / "batching.config"
    path.write_text(data["batching.config"])
    cores = pod["spec"]["containers"][0]["resources"]["requests"]["cpu"]
    assert read_batching(path).num_batch_threads == int(cores)


def test_all_kubernetes_objects_select_the_same_pods(pod):
    labels = pod["metadata"]["labels"]
    deployment = load("k8s", "deployment.yaml")
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert load("k8s", "service.yaml")["spec"]["selector"] == labels
    assert load("k8s", "pdb.yaml")["spec"]["selector"]["matchLabels"] == labels
    target = load("k8s", "hpa.yaml")["spec"]["scaleTargetRef"]
    assert target["name"] == deployment["metadata"]["name"]
    # A fixed number would undo the autoscaler at every `apply`.
    assert "replicas" not in deployment["spec"]


def test_the_kustomization_lists_every_manifest():
    listed = set(load("k8s", "kustomization.yaml")["resources"])
    there = {path.name for path in (FOLDER / "k8s").glob("*.yaml")}
    assert listed == there - {"kustomization.yaml"}


def test_liveness_does_not_depend_on_the_model_s_state(pod):
    container = pod["spec"]["containers"][0]
    assert "httpGet" not in container["livenessProbe"]
    grace = pod["spec"]["terminationGracePeriodSeconds"]
    (_, seconds) = container["lifecycle"]["preStop"]["exec"]["command"]
    assert int(seconds) < grace
