"""`edge bench` against servers that answer well, badly and not at all."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import Result
from daemon_process import MODEL, Start, poll
from fake_cloud import FakeCloud
from fake_daemon import FakeDaemon, answer, text

from edge.cli.load import server

Run = Callable[..., Result]
FEW = ("--clients", "2", "--requests", "4", "--tokens", "5")


@pytest.fixture
def cloud() -> Iterator[FakeCloud]:
    with FakeCloud() as cloud:
        yield cloud


def measured(run: Run, url: str, *args: str, code: int = 0) -> dict[str, Any]:
    """What `edge bench --json` prints, with its exit code checked."""
    result = run("bench", "--url", url, *FEW, *args, "--json")
    assert result.exit_code == code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_table_has_a_line_for_each_number_of_clients(run: Run, cloud: FakeCloud) -> None:
    """All answers are whole, and the figures are there."""
    result = run("bench", "--url", cloud.url, "--clients", "1,3", "--requests", "6")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines()]
    rows = [line for line in lines if line[0] in ("1", "3")]
    assert [row[:3] for row in rows] == [["1", "6", "0"], ["3", "6", "0"]]
    assert "-" not in rows[0]
    assert "model words" in result.output


def test_programs_get_every_request(run: Run, cloud: FakeCloud) -> None:
    """Figures, and the raw times that they were made from."""
    found = measured(run, cloud.url, "--seed", "7")
    assert found["ok"] is True
    assert {key: found[key] for key in ("model", "edge", "answer_cache", "seed")} == {
        "model": "words",
        "edge": None,
        "answer_cache": "unknown",
        "seed": 7,
    }
    (one,) = found["runs"]
    assert (one["clients"], one["rate"], one["interrupted"]) == (2, None, False)
    figures = one["figures"]
    assert (figures["ok"], figures["failed"], figures["streamed"]) == (4, {}, 4)
    assert (figures["tokens"], figures["counted_by"]) == (20, "usage")
    assert figures["tokens_per_second"] == pytest.approx(20 / one["seconds"])
    prompt = sum(request["prompt_tokens"] for request in one["requests"])
    assert figures["prompt_tokens"] == prompt > 0
    assert figures["cached_share"] == pytest.approx(4 / prompt)
    for name in ("first_token", "inter_token", "latency"):
        assert figures[name]["p50"] <= figures[name]["p95"] <= figures[name]["p99"]
    for request in one["requests"]:
        times = [request["intended"], request["sent"], *request["pieces"], request["ended"]]
        assert len(request["pieces"]) == 5
        assert times == sorted(times)


def test_strangers_get_no_fields_of_ours(run: Run, cloud: FakeCloud) -> None:
    """A server that is not edge would refuse them; one question more than counted warms it up."""
    measured(run, cloud.url, "--workload", "mixed")
    bodies = [call["body"] for call in cloud.calls()]
    assert len(bodies) == 5
    known = {"messages", "max_tokens", "temperature", "stream", "stream_options", "model"}
    assert all(set(body) == known for body in bodies)


def test_edge_is_told_to_leave_its_cache_alone(
    run: Run, daemon: FakeDaemon, status: dict[str, Any]
) -> None:
    """Except where the cache is what is measured."""
    daemon.serve(status)
    assert measured(run, daemon.url)["answer_cache"] == "off"
    assert all(body["edge"] == {"cache": False} for body in daemon.requests)
    assert all("model" not in body for body in daemon.requests)
    daemon.requests.clear()
    assert measured(run, daemon.url, "--workload", "repeat")["answer_cache"] == "left on"
    assert all("edge" not in body for body in daemon.requests)


def test_priorities_are_reported_apart(
    run: Run, daemon: FakeDaemon, status: dict[str, Any]
) -> None:
    """Long questions of priority batch, now and then a short one that is critical."""
    daemon.serve(status)
    found = measured(run, daemon.url, "--workload", "mixed", "--requests", "10")
    (one,) = found["runs"]
    assert {name: some["ok"] for name, some in one["groups"].items()} == {"batch": 8, "critical": 2}
    sent = [body["edge"].get("priority") for body in daemon.requests[1:]]
    assert sorted(sent) == ["batch"] * 8 + ["critical"] * 2
    table = run("bench", "--url", daemon.url, *FEW, "--requests", "5", "--workload", "mixed").output
    assert [line.split()[0] for line in table.splitlines()[4:7]] == ["2", "batch", "critical"]


@pytest.mark.parametrize(
    ("fault", "options", "code"),
    [
        ("cut", {"after": 2}, "cut"),
        ("reset", {}, "cut"),
        ("no_done", {}, "cut"),
        ("no_reason", {}, "no_finish_reason"),
        ("error_event", {"after": 2}, "server_error"),
        ("broken_json", {"after": 1}, "bad_answer"),
        ("html", {}, "bad_answer"),
        ("filtered", {}, "content_filter"),
        ("content_filter", {}, "content_filter"),
        ("status", {"status": 503}, "http_503"),
        ("status", {"status": 503, "code": "overloaded"}, "overloaded"),
        ("status", {"status": 500, "endless": True}, "http_500"),
    ],
)
def test_what_is_no_whole_answer_is_a_failure(
    fault: str,
    options: dict[str, Any],
    code: str,
    run: Run,
    cloud: FakeCloud,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is counted by its code, adds nothing to the speed, and the exit code tells."""
    monkeypatch.setattr(server, "REFUSAL_SECONDS", 0.3)
    cloud.fault(fault, **options)
    found = measured(run, cloud.url, code=1)
    figures = found["runs"][0]["figures"]
    assert found["ok"] is False
    assert (figures["ok"], figures["failed"]) == (0, {code: 4})
    assert (figures["tokens"], figures["tokens_per_second"]) == (0, 0)
    assert figures["latency"] == {"p50": None, "p95": None, "p99": None}
    assert any(note.startswith(f"failed: 4 {code}: ") for note in found["notes"])


def test_one_failure_is_enough_and_spoils_nothing(run: Run, cloud: FakeCloud) -> None:
    """The others are measured; the question that warms up is not counted, but told."""
    cloud.fault("cut", after=2, times=2)
    result = run("bench", "--url", cloud.url, *FEW)
    assert result.exit_code == 1
    row = result.output.splitlines()[4].split()
    assert row[:3] == ["2", "3", "1"]
    assert "- the warm-up of run 1 failed: cut: " in result.output
    assert "- failed: 1 cut: " in result.output


def test_tokens_without_usage_are_counted_by_pieces(run: Run, cloud: FakeCloud) -> None:
    """Which is said, since a piece may be more than a token."""
    cloud.fault("no_usage")
    found = measured(run, cloud.url)
    figures = found["runs"][0]["figures"]
    assert (figures["tokens"], figures["counted_by"]) == (20, "pieces")
    assert figures["prompt_tokens"] is figures["cached_share"] is None
    assert any("counted by pieces" in note for note in found["notes"])


def test_server_that_does_not_stream(run: Run, cloud: FakeCloud) -> None:
    """It has no first token, but a latency; that is said."""
    cloud.fault("whole")
    found = measured(run, cloud.url)
    figures = found["runs"][0]["figures"]
    assert (figures["ok"], figures["streamed"], figures["tokens"]) == (4, 0, 20)
    assert figures["first_token"]["p50"] is figures["inter_token"]["p50"] is None
    assert figures["latency"]["p50"] > 0
    assert "the server does not stream: there are no times of tokens" in found["notes"]


def test_answers_in_a_schema_are_judged(
    run: Run, daemon: FakeDaemon, status: dict[str, Any]
) -> None:
    """Valid JSON of another form is not valid."""
    good = {"machine": "pump", "state": "idle", "temperature": 20, "faults": 0, "action": "none"}
    daemon.serve(status)
    daemon.script = [
        list(answer("warm")),
        list(answer(json.dumps(good)[:20], json.dumps(good)[20:])),
        list(answer(json.dumps({**good, "state": "asleep"}))),
        list(answer("Sure! Here is", " the JSON")),
        list(answer(json.dumps(good))),
    ]
    found = measured(run, daemon.url, "--workload", "json")
    figures = found["runs"][0]["figures"]
    assert (figures["ok"], figures["valid"]) == (4, 2)
    form = daemon.requests[-1]["response_format"]
    assert form["type"] == "json_schema"
    assert len(form["json_schema"]["schema"]["required"]) == 5
    assert "response_format" not in daemon.requests[0]
    daemon.requests.clear()
    assert "2 of 4" in run("bench", "--url", daemon.url, *FEW, "--workload", "json").output


def test_arrivals_wait_for_no_answer(run: Run, cloud: FakeCloud) -> None:
    """All questions are asked while the first is still being answered."""
    cloud.fault("slow", delay=0.2)
    args = ("--rate", "40", "--requests", "8", "--tokens", "10", "--json")
    result = run("bench", "--url", cloud.url, *args)
    assert result.exit_code == 0, result.output
    (one,) = json.loads(result.stdout)["runs"]
    assert (one["clients"], one["rate"], one["figures"]["ok"]) == (None, 40, 8)
    asked = [call["time"] for call in cloud.calls()[1:]]
    assert max(asked) < one["began"] + min(request["ended"] for request in one["requests"])


def test_key_is_sent_and_never_shown(run: Run, tmp_path: Path) -> None:
    """Not even where the server repeats it."""
    (tmp_path / "key").write_text("s3cret\n")
    with FakeCloud(key="s3cret") as cloud:
        assert run("bench", "--url", cloud.url, *FEW).exit_code == 1
        keyed = ("--api-key-file", str(tmp_path / "key"))
        assert measured(run, cloud.url, *keyed)["ok"] is True
        cloud.fault("key_echo")
        result = run("bench", "--url", cloud.url, *FEW, *keyed)
        assert result.exit_code == 1
        assert "bad credentials: Bearer ***" in result.output
        assert "s3cret" not in result.output


def test_model_of_a_stranger_that_names_none(run: Run, daemon: FakeDaemon) -> None:
    """It has to be named, and then it will do."""
    result = run("bench", "--url", daemon.url, *FEW)
    assert result.exit_code == 1
    assert "Try: name one with --model" in result.stderr
    assert measured(run, daemon.url, "--model", "m")["model"] == "m"
    assert {body["model"] for body in daemon.requests} == {"m"}


def test_nobody_at_the_address(run: Run, free_port: int) -> None:
    """An error with what to try, and no table of failures."""
    result = run("bench", "--url", f"http://127.0.0.1:{free_port}")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: no answer from http://127.0.0.1:{free_port}")
    assert "Try: edge serve, or name another server with --url" in result.stderr


@pytest.mark.parametrize(
    "args",
    [
        ("--clients", "0"),
        ("--clients", "4,x"),
        ("--clients", "8", "--requests", "4"),
        ("--rate", "0"),
        ("--rate", "nan"),
        ("--rate", "2", "--clients", "1"),
        ("--workload", "nonsense"),
        ("--tokens", "0"),
        ("--api-key-file", "/nowhere"),
        ("--svg", "/nowhere/x.svg"),
        ("--url", "localhost"),
    ],
)
def test_bad_usage(args: tuple[str, ...], run: Run) -> None:
    """Refused before anything is asked."""
    result = run("bench", *args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: ")


def test_picture_is_written(run: Run, cloud: FakeCloud, tmp_path: Path) -> None:
    """Well-formed, with a point for each load in each panel."""
    args = ("--clients", "1,2,4", "--requests", "4", "--svg", str(tmp_path / "x.svg"))
    assert run("bench", "--url", cloud.url, *args).exit_code == 0
    root = ElementTree.parse(tmp_path / "x.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(root.findall("{*}circle")) == 5 * 3


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_ctrl_c_shows_what_was_measured(
    flags: tuple[str, ...], daemon: FakeDaemon, status: dict[str, Any], state: Path
) -> None:
    """Whole answers count; the one that was being given does not, and is given up."""
    daemon.serve(status)
    whole = list(answer("Hel", "lo."))
    daemon.script = [whole, whole, whole, [text("Hel"), None]]
    args = [sys.executable, "-m", "edge", "bench", "--url", daemon.url, "--clients", "1", *flags]
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        poll(lambda: len(daemon.requests) == 4, "the fourth question")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"")
    assert daemon.left.wait(20)
    if flags:
        found = json.loads(out)
        assert found["interrupted"] is found["runs"][0]["interrupted"] is True
        assert found["runs"][0]["figures"]["ok"] == len(found["runs"][0]["requests"]) == 2
    else:
        lines = out.decode().splitlines()
        assert lines[4].split()[:3] == ["1", "2", "0"]
        assert lines[-1].startswith("- interrupted: ")


def test_real_daemon_with_a_real_model(run: Run, start: Start) -> None:
    """It is recognised, counts its tokens, and every answer is whole."""
    daemon = start(cache__enabled="true").wait_ready()
    found = measured(run, daemon.url, "--workload", "repeat", "--tokens", "4", "--requests", "8")
    figures = found["runs"][0]["figures"]
    assert (found["edge"] is not None, found["answer_cache"]) == (True, "left on")
    assert (figures["ok"], figures["counted_by"], figures["streamed"]) == (8, "usage", 8)
    assert figures["tokens"] <= 8 * 4
    assert found["model"] == MODEL
    assert daemon.metrics()["edge_answer_cache_hits_total"] >= 1
    hits = daemon.metrics()["edge_answer_cache_hits_total"]
    assert measured(run, daemon.url, "--tokens", "4", "--seed", "1")["ok"] is True
    assert measured(run, daemon.url, "--tokens", "4", "--seed", "1")["ok"] is True
    assert daemon.metrics()["edge_answer_cache_hits_total"] == hits
