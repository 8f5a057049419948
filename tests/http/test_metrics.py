"""/metrics: the names that dashboards are built on, and counters that count."""

from __future__ import annotations

import pytest
from daemon_process import MODEL, DaemonProcess
from prometheus_client.parser import text_string_to_metric_families

CONTRACT = {
    "edge_requests": ("counter", {"door", "route", "status"}),
    "edge_num_requests_running": ("gauge", set()),
    "edge_num_requests_waiting": ("gauge", set()),
    "edge_time_to_first_token_seconds": ("histogram", set()),
    "edge_inter_token_seconds": ("histogram", set()),
    "edge_request_seconds": ("histogram", set()),
    "edge_prompt_tokens": ("counter", set()),
    "edge_generation_tokens": ("counter", set()),
    "edge_forced_tokens": ("counter", set()),
    "edge_draft_tokens": ("counter", set()),
    "edge_draft_accepted_tokens": ("counter", set()),
    "edge_prefix_cache_queries": ("counter", set()),
    "edge_prefix_cache_hits": ("counter", set()),
    "edge_worker_restarts": ("counter", {"model"}),
    "edge_model_info": ("gauge", {"model", "architecture", "backend", "gpu_layers", "kv_type"}),
    "edge_model_memory_bytes": ("gauge", {"model"}),
    "edge_model_predicted_memory_bytes": ("gauge", {"model"}),
    "edge_model_taken_memory_bytes": ("gauge", {"model"}),
    "edge_kv_cache_usage_ratio": ("gauge", {"model"}),
}
"""Type and labels of each; Prometheus' clients write counters with `_total`."""

BODY = {"prompt": "The sea is", "max_tokens": 8, "ignore_eos": True, "temperature": 0}


def requests(daemon: DaemonProcess, status: str) -> float:
    name = f'edge_requests_total{{door="http",route="local",status="{status}"}}'
    return daemon.metrics().get(name, 0)


def test_the_names_of_the_contract(daemon: DaemonProcess) -> None:
    """Each is there with its type, its labels and a help text."""
    daemon.post("/v1/completions", BODY)
    answer = daemon.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    for name, (kind, labels) in CONTRACT.items():
        family = families[name]
        assert (family.type, bool(family.documentation)) == (kind, True), name
        assert {key for s in family.samples for key in s.labels} - {"le"} == labels, name


def test_one_model_is_described(daemon: DaemonProcess) -> None:
    """Where it runs, what it takes."""
    metrics = daemon.metrics()
    (info,) = [name for name in metrics if name.startswith("edge_model_info{")]
    for label in (f'model="{MODEL}"', 'architecture="llama"', 'backend="cpu"', 'gpu_layers="0"'):
        assert label in info
    memory = metrics[f'edge_model_memory_bytes{{model="{MODEL}"}}']
    assert memory == daemon.status()["stats"]["memory_bytes"] > 50 * 2**20
    assert 0 <= metrics[f'edge_kv_cache_usage_ratio{{model="{MODEL}"}}'] <= 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_counted(daemon: DaemonProcess, stream: bool) -> None:
    """Its tokens, its times, its end."""
    before = daemon.metrics()
    answer = daemon.post("/v1/completions", {**BODY, "stream": stream})
    assert answer.status_code == 200
    after = daemon.metrics()

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert grown('edge_requests_total{door="http",route="local",status="ok"}') == 1
    assert grown("edge_generation_tokens_total") == 8
    assert grown("edge_prompt_tokens_total") == 3
    assert grown("edge_prefix_cache_queries_total") == 3
    assert grown("edge_time_to_first_token_seconds_count") == 1
    assert grown("edge_inter_token_seconds_count") == 7
    assert grown("edge_request_seconds_count") == 1
    assert grown("edge_request_seconds_sum") > grown("edge_time_to_first_token_seconds_sum") > 0


def test_prefix_hits_are_tokens(daemon: DaemonProcess) -> None:
    """As many as the second request's usage says were cached."""
    body = {**BODY, "prompt": "Nine tailors make a man, and ten of them make a good suit."}
    daemon.post("/v1/completions", body)
    before = daemon.metrics()["edge_prefix_cache_hits_total"]
    usage = daemon.post("/v1/completions", body).json()["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert cached == usage["prompt_tokens"] - 1
    assert daemon.metrics()["edge_prefix_cache_hits_total"] - before == cached


def test_outcomes_are_told_apart(daemon: DaemonProcess) -> None:
    """Refused and late requests have their code as status, those whose client left `cancelled`."""
    fields = {"no_route": {"route": "cloud"}, "deadline_exceeded": {"deadline_ms": 1}}
    for code, edge in fields.items():
        before = requests(daemon, code)
        answer = daemon.post("/v1/completions", {**BODY, "max_tokens": 400, "edge": edge})
        assert answer.json()["error"]["code"] == code
        assert requests(daemon, code) == before + 1
    before = requests(daemon, "cancelled")
    with daemon.http.stream(
        "POST", daemon.url + "/v1/completions", json={**BODY, "max_tokens": 400, "stream": True}
    ) as answer:
        next(answer.iter_lines())
    daemon.wait_idle()
    assert requests(daemon, "cancelled") == before + 1


def test_running_is_counted_while_it_runs(daemon: DaemonProcess) -> None:
    """The gauge is of now, and 0 afterwards."""
    # Drawn at random: what repeats itself is drafted, and over before anyone looks.
    body = {**BODY, "temperature": 1, "max_tokens": 400, "n": 3, "stream": True}
    with daemon.http.stream("POST", daemon.url + "/v1/completions", json=body) as answer:
        assert answer.status_code == 200, answer.read()
        lines = answer.iter_lines()  # kept, because a dropped iterator closes the connection
        assert next(lines).startswith("data: {")
        daemon.wait_running(3)
        assert daemon.metrics()["edge_num_requests_running"] == 3
    daemon.wait_idle()
    assert daemon.metrics()["edge_num_requests_running"] == 0
