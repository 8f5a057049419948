"""The appliance's Prometheus metrics, in one object that the daemon owns.

Names are part of the contract with dashboards; `docs/reference.md` lists them, generated from
here. There is no global registry: two daemons in one test process do not share counters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST

_FIRST_TOKEN = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 40, 80)
_INTER_TOKEN = (0.002, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.2, 0.5, 1, 2, 5)
_INFERENCE = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
_JOULES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000)
_REQUEST = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 40, 80, 160, 320)


class Total(Collector):
    """A counter that is kept elsewhere, and is left out of the answer while it is unknown: 0 would
    be a lie. label: of its values, empty for a single one."""

    def __init__(
        self, name: str, meaning: str, registry: CollectorRegistry, label: str = ""
    ) -> None:
        self._name, self._meaning = name, meaning
        self._labels = [label] if label else []
        self._values: dict[str, float] = {}
        registry.register(self)

    def set(self, value: float | None) -> None:
        self._values = {} if value is None else {"": value}

    def set_all(self, values: Mapping[str, float]) -> None:
        """By their label."""
        self._values = dict(values)

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(self._name, self._meaning, labels=self._labels)
        for label, value in self._values.items():
            family.add_metric([label] if self._labels else [], value)
        yield family


class Metrics:
    """All metrics, created at once so that each is visible (at zero) from the first scrape."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._of_requests()
        self._of_limits()
        self._of_models()
        self._of_the_machine()
        self._of_inferences()
        self._of_jobs()
        self._of_answers()
        self._of_reports()
        self._of_audit()
        self._of_upstreams()
        self._of_configuration()

    def render(self) -> bytes:
        """The text exposition of all metrics."""
        return generate_latest(self.registry)

    def _of_requests(self) -> None:
        self.requests = self._counter(
            "edge_requests", "Requests answered, by door, route and outcome", "door route status"
        )
        self.running = self._gauge("edge_num_requests_running", "Sequences that have a slot")
        self.waiting = self._gauge("edge_num_requests_waiting", "Sequences that wait for a slot")
        self.first_token = self._histogram(
            "edge_time_to_first_token_seconds",
            "From the request's arrival to its first token",
            _FIRST_TOKEN,
        )
        self.inter_token = self._histogram(
            "edge_inter_token_seconds", "Between two tokens of one answer", _INTER_TOKEN
        )
        self.request_seconds = self._histogram(
            "edge_request_seconds", "From the request's arrival to its end", _REQUEST
        )
        self.prompt_tokens = self._counter(
            "edge_prompt_tokens", "Prompt tokens of finished requests"
        )
        self.generation_tokens = self._counter("edge_generation_tokens", "Tokens generated")
        self.forced_tokens = self._counter(
            "edge_forced_tokens", "Tokens of answers that a grammar fixed, so that none was chosen"
        )
        self.draft_tokens = self._counter(
            "edge_draft_tokens", "Tokens that were guessed and computed ahead"
        )
        self.accepted_tokens = self._counter(
            "edge_draft_accepted_tokens", "Those of them that were what the model then chose"
        )
        self.prefix_queries = self._counter(
            "edge_prefix_cache_queries", "Prompt tokens looked up in slots and kept prefixes"
        )
        self.prefix_hits = self._counter(
            "edge_prefix_cache_hits",
            "Prompt tokens found in slots and kept prefixes, and not computed again",
        )

    def _of_limits(self) -> None:
        self.http_connections = self._gauge(
            "edge_http_connections", "Open connections to the HTTP API"
        )
        self.http_dropped = self._counter(
            "edge_http_connections_dropped",
            "Connections ended for a limit: no room (`full`, or of one `address`), `displaced` by "
            "another machine's, no `handshake` or no whole `headers` in time, `invalid` ones, an "
            "answer that is not taken (`stalled`), of a machine whose requests are refused one "
            "after the other (`nuisance`)",
            "reason",
        )
        self.daemon_memory = self._gauge(
            "edge_daemon_memory_bytes", "Resident memory of the daemon, workers not counted"
        )
        self.daemon_memory_limit = self._gauge(
            "edge_daemon_memory_limit_bytes", "`limits.max_memory_mb`, or what `auto` stands for"
        )
        self.memory_pressure = self._gauge(
            "edge_memory_pressure",
            "Refused for lack of memory: 0 nothing, 1 batch requests, 2 normal ones too, 3 all",
        )
        self.body_bytes = self._gauge(
            "edge_http_body_bytes", "Bodies of open HTTP requests, as far as they have come"
        )
        self.shed = self._counter(
            "edge_requests_shed", "Requests refused for lack of memory, by priority", "priority"
        )
        self.bodies_given_up = self._counter(
            "edge_http_bodies_given_up", "Bodies given up for lack of memory while they came"
        )

    def _of_models(self) -> None:
        self.worker_restarts = self._counter(
            "edge_worker_restarts", "Times a model worker was restarted", "model"
        )
        self.worker_shortages = self._counter(
            "edge_worker_shortages",
            "Times a model worker was refused memory that was thought to be there",
            "model",
        )
        self.model_info = self._gauge(
            "edge_model_info",
            "1 for each loaded model; what it is and where it runs",
            "model architecture backend gpu_layers kv_type",
        )
        self.model_state = self._gauge(
            "edge_model_state",
            "1 for the state that an installed model is in: unloaded, waiting (for memory), "
            "loading, ready, restarting, failed, unloading",
            "model state",
        )
        self.model_loads = self._counter(
            "edge_model_loads", "Times a model was loaded, or could not be", "model outcome"
        )
        self.model_unloads = self._counter(
            "edge_model_unloads",
            "Times a model was unloaded: to make `room`, or after its `ttl`",
            "model reason",
        )
        self.model_memory = self._gauge(
            "edge_model_memory_bytes", "Resident memory of a model's worker process", "model"
        )
        self.model_predicted = self._gauge(
            "edge_model_predicted_memory_bytes",
            "What a model's worker was predicted to take at most, before its load",
            "model",
        )
        self.model_taken = self._gauge(
            "edge_model_taken_memory_bytes",
            "The most that it has taken so far of what others could have, without kept prefixes",
            "model",
        )
        self.kv_usage = self._gauge(
            "edge_kv_cache_usage_ratio", "Part of the KV cache that holds tokens", "model"
        )
        self.prefix_entries = self._gauge(
            "edge_prefix_cache_entries", "Computed prefixes kept that left their slot", "model"
        )
        self.prefix_bytes = self._gauge(
            "edge_prefix_cache_bytes", "Memory that kept prefixes take", "model"
        )

    def _of_the_machine(self) -> None:
        self.temperature = self._gauge(
            "edge_temperature_celsius",
            "By sensor; NaN for one that is there and cannot be read",
            "zone",
        )
        self.power = self._gauge(
            "edge_power_watts", "By rail; NaN for one that is there and cannot be read", "rail"
        )
        self.heat_level = self._gauge(
            "edge_heat_level",
            "What is held back for heat or power: 0 nothing; 1 batch work is slowed down, 2 it "
            "waits, 3 fewer requests run at once, 4 what may wait does and the cloud is asked "
            "first, 5 all but critical requests wait",
        )
        self.heat_changes = self._counter("edge_heat_level_changes", "Changes of that level")
        self.heat_refused = self._counter(
            "edge_heat_refused",
            "Requests that were refused here for `heat` or `power`; with another target in their "
            "route they were answered there",
            "priority reason",
        )
        self.energy = Total(
            "edge_energy_joules",
            "What the machine used since the daemon's start; left out while it is unknown",
            self.registry,
        )
        self.rails_energy = Total(
            "edge_rail_energy_joules", "The same by rail", self.registry, "rail"
        )
        self.energy_unshared = Total(
            "edge_energy_unshared_joules",
            "Of it, what was used while no request was computed",
            self.registry,
        )
        self.models_energy = Total(
            "edge_model_energy_joules",
            "Of it, what was used for requests, by the model that computed them",
            self.registry,
            "model",
        )
        self.request_energy = self._histogram(
            "edge_request_energy_joules",
            "What one request to a model took, where that is known",
            _JOULES,
            "model",
        )
        self.token_energy = self._histogram(
            "edge_token_energy_joules",
            "The same for each token that it generated, its prompt included",
            _JOULES,
            "model",
        )

    def _of_inferences(self) -> None:
        self.inference_seconds = self._histogram(
            "edge_inference_seconds",
            "From an inference's arrival at its model to its answer, the wait for others included",
            _INFERENCE,
            "model",
        )
        self.inference_rows = self._histogram(
            "edge_inference_rows",
            "Rows that were computed in the batches of one inference, others' included",
            _ROWS,
            "model",
        )

    def _of_jobs(self) -> None:
        self.jobs = self._gauge("edge_jobs", "Jobs in the ledger", "state")
        self.jobs_waiting = self._gauge(
            "edge_jobs_waiting", "Jobs that wait, by their line: route and model", "line"
        )
        self.job_oldest = self._gauge(
            "edge_job_oldest_seconds", "How long the oldest queued job has waited"
        )
        self.ledger_syncs = self._gauge(
            "edge_ledger_syncs", "Transactions synced to disk since the start"
        )
        self.mqtt_connected = self._gauge("edge_mqtt_connected", "1 while the broker answers")
        self.mqtt_refused = self._counter(
            "edge_mqtt_refused",
            "Messages over MQTT that did not become a job, by the error's code or another reason",
            "reason",
        )
        self.mqtt_replies = self._counter(
            "edge_mqtt_replies", "Replies that the broker took, by status", "status"
        )

    def _of_answers(self) -> None:
        self.cache_queries = self._counter(
            "edge_answer_cache_queries", "Requests that may share an answer"
        )
        self.cache_hits = self._counter(
            "edge_answer_cache_hits", "Answers taken out of the file of earlier ones"
        )
        self.cache_similar = self._counter(
            "edge_answer_cache_similar", "Of them, those to a question in other words"
        )
        self.cache_shared = self._counter(
            "edge_answer_cache_shared", "Requests that joined an identical one under way"
        )
        self.cache_errors = self._counter(
            "edge_answer_cache_errors", "Times that file could not be read or written"
        )

    def _of_reports(self) -> None:
        self.reports_pending = self._gauge(
            "edge_reports_pending", "Records of finished work that are still to be reported"
        )
        self.reports_sent = self._counter("edge_reports_sent", "Records that were taken")
        self.reports_dropped = self._counter(
            "edge_reports_dropped",
            "Records given up: too many were kept (`full`), or the one was `refused`",
            "reason",
        )

    def _of_audit(self) -> None:
        self.audit_events = self._counter("edge_audit_events", "Lines of the audit log")
        self.audit_lost = self._counter(
            "edge_audit_lost", "Events that the disk did not take, and that there was no room for"
        )
        self.audit_bytes = self._gauge("edge_audit_bytes", "Size of the audit log")
        self.audit_days = self._gauge("edge_audit_days", "Days that there are files of")
        self.audit_cut = self._gauge(
            "edge_audit_cut_files",
            "Files that went before audit.keep_days, because of audit.max_mb, since the start",
        )

    def _of_upstreams(self) -> None:
        self.upstream_state = self._gauge(
            "edge_upstream_state",
            "Circuit breaker of a cloud model: 0 closed, 1 half-open, 2 open (not asked)",
            "upstream",
        )
        self.upstream_requests = self._counter(
            "edge_upstream_requests", "Attempts at a cloud model, by outcome", "upstream outcome"
        )
        self.upstream_link = self._gauge(
            "edge_upstream_link_up", "1 while the cloud model's server can be reached", "upstream"
        )

    def _of_configuration(self) -> None:
        self.config_reloads = self._counter(
            "edge_config_reloads",
            "Times the configuration was read anew: `applied`, or `refused` with nothing changed",
            "outcome",
        )
        self.config_needs_restart = self._gauge(
            "edge_config_needs_restart", "Keys that were changed and wait for a restart"
        )

    def forget_upstream(self, name: str) -> None:
        """It is not in the configuration any more. What was counted stays."""
        self.upstream_state.remove(name)
        self.upstream_link.remove(name)

    def _counter(self, name: str, meaning: str, labels: str = "") -> Counter:
        return Counter(name, meaning, labels.split(), registry=self.registry)

    def _gauge(self, name: str, meaning: str, labels: str = "") -> Gauge:
        return Gauge(name, meaning, labels.split(), registry=self.registry)

    def _histogram(
        self, name: str, meaning: str, buckets: tuple[float, ...], labels: str = ""
    ) -> Histogram:
        return Histogram(name, meaning, labels.split(), buckets=buckets, registry=self.registry)
