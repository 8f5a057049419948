"""The appliance's Prometheus metrics, in one object that the daemon owns.

Names are part of the contract with dashboards; `docs/reference.md` lists them, generated from
here. There is no global registry: two daemons in one test process do not share counters.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST

_FIRST_TOKEN = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 40, 80)
_INTER_TOKEN = (0.002, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.2, 0.5, 1, 2, 5)
_REQUEST = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 40, 80, 160, 320)


class Metrics:
    """All metrics, created at once so that each is visible (at zero) from the first scrape."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "edge_requests",
            "Requests answered, by door, route and outcome",
            ["door", "route", "status"],
            registry=registry,
        )
        self.running = Gauge(
            "edge_num_requests_running", "Sequences that have a slot", registry=registry
        )
        self.waiting = Gauge(
            "edge_num_requests_waiting", "Sequences that wait for a slot", registry=registry
        )
        self.first_token = Histogram(
            "edge_time_to_first_token_seconds",
            "From the request's arrival to its first token",
            buckets=_FIRST_TOKEN,
            registry=registry,
        )
        self.inter_token = Histogram(
            "edge_inter_token_seconds",
            "Between two tokens of one answer",
            buckets=_INTER_TOKEN,
            registry=registry,
        )
        self.request_seconds = Histogram(
            "edge_request_seconds",
            "From the request's arrival to its end",
            buckets=_REQUEST,
            registry=registry,
        )
        self.prompt_tokens = Counter(
            "edge_prompt_tokens", "Prompt tokens of finished requests", registry=registry
        )
        self.generation_tokens = Counter(
            "edge_generation_tokens", "Tokens generated", registry=registry
        )
        self.prefix_queries = Counter(
            "edge_prefix_cache_queries",
            "Prompt tokens looked up in resident sequences",
            registry=registry,
        )
        self.prefix_hits = Counter(
            "edge_prefix_cache_hits",
            "Prompt tokens found in resident sequences and not computed again",
            registry=registry,
        )
        self.worker_restarts = Counter(
            "edge_worker_restarts",
            "Times a model worker was restarted",
            ["model"],
            registry=registry,
        )
        self.model_info = Gauge(
            "edge_model_info",
            "1 for each loaded model; what it is and where it runs",
            ["model", "architecture", "backend", "gpu_layers", "kv_type"],
            registry=registry,
        )
        self.model_memory = Gauge(
            "edge_model_memory_bytes",
            "Resident memory of a model's worker process",
            ["model"],
            registry=registry,
        )
        self.jobs = Gauge("edge_jobs", "Jobs in the ledger", ["state"], registry=registry)
        self.ledger_syncs = Gauge(
            "edge_ledger_syncs", "Transactions synced to disk since the start", registry=registry
        )
        self.job_oldest = Gauge(
            "edge_job_oldest_seconds",
            "How long the oldest queued job has waited",
            registry=registry,
        )
        self.mqtt_connected = Gauge(
            "edge_mqtt_connected", "1 while the broker answers", registry=registry
        )
        self.mqtt_refused = Counter(
            "edge_mqtt_refused",
            "Messages over MQTT that did not become a job, by the error's code or another reason",
            ["reason"],
            registry=registry,
        )
        self.mqtt_replies = Counter(
            "edge_mqtt_replies",
            "Replies that the broker took, by status",
            ["status"],
            registry=registry,
        )
        self.kv_usage = Gauge(
            "edge_kv_cache_usage_ratio",
            "Part of the KV cache that holds tokens",
            ["model"],
            registry=registry,
        )

    def render(self) -> bytes:
        """The text exposition of all metrics."""
        return generate_latest(self.registry)
