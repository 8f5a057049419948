"""The parts of `edge bench`: questions from a seed, arrivals, percentiles, the picture."""

from __future__ import annotations

import asyncio
import random
import statistics
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from edge.cli.load import chart, figures
from edge.cli.load.answer import Answer, Clock, NoAnswer, Reader
from edge.cli.load.report import Report, notes
from edge.cli.load.runner import Run, arrivals, carry_out
from edge.cli.load.workloads import WORKLOADS, Question, questions, warm_up


def first_text(question: Question) -> str:
    return question.messages[0]["content"]


def whole(**fields: object) -> Answer:
    """An answer of three pieces that was due at 1 s and sent at 3 s."""
    known = {"group": "chat", "intended": 1.0, "sent": 3.0, "ended": 6.0}
    return Answer(**{**known, "pieces": [4.0, 4.5, 6.0], **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize("workload", list(WORKLOADS))
def test_same_seed_same_questions(workload: str) -> None:
    """And another seed others; no question begins as the one that warms up does."""
    first = questions(workload, "1", 12)
    assert first == questions(workload, "1", 12)
    assert first[:5] == questions(workload, "1", 5)
    assert set(map(first_text, first)).isdisjoint(map(first_text, questions(workload, "2", 12)))
    assert warm_up().messages not in [question.messages for question in first]
    assert {question.max_tokens for question in first} >= {WORKLOADS[workload].tokens}
    assert max(question.max_tokens for question in questions(workload, "1", 12, 7)) == 7


def test_workloads_repeat_what_they_say() -> None:
    """All different, one prefix, twelve prefixes, four questions."""

    def texts(workload: str, turn: int) -> set[str]:
        return {one.messages[turn]["content"] for one in questions(workload, "1", 200)}

    assert len(texts("chat", 0)) == 200
    assert (len(texts("prefix", 0)), len(texts("apps", 0)), len(texts("repeat", 0))) == (1, 12, 4)
    assert len(texts("prefix", 1)) > 190
    assert all(question.structured for question in questions("json", "1", 5))
    groups = [question.group for question in questions("mixed", "1", 200)]
    assert (groups.count("batch"), groups.count("critical")) == (160, 40)


def test_arrivals_are_a_poisson_process() -> None:
    """The mean gap is that of the rate, and gaps are as spread as an exponential's."""
    due = arrivals(5.0, 20_001, random.Random(1))
    gaps = [b - a for a, b in pairwise(due)]
    assert due[0] == 0
    assert min(gaps) >= 0
    assert statistics.mean(gaps) == pytest.approx(0.2, rel=0.05)
    assert statistics.stdev(gaps) == pytest.approx(0.2, rel=0.05)
    assert arrivals(5.0, 4, random.Random(2)) == arrivals(5.0, 4, random.Random(2))


class Slow:
    """A server that answers nobody before all have asked."""

    def __init__(self, all_of_them: int) -> None:
        self.missing = all_of_them
        self.complete = asyncio.Event()

    async def ask(self, question: Question, intended: float, clock: Clock) -> Answer:
        found = Answer(question.group, intended, clock())
        self.missing -= 1
        if not self.missing:
            self.complete.set()
        await self.complete.wait()
        found.ended = clock()
        return found


async def test_open_loop_asks_when_it_is_due() -> None:
    """Nobody waits for an answer, and no latency counts from later than the question was due."""
    source = random.Random(3)
    run = Run(None, 100.0)
    await carry_out(run, Slow(20), questions("chat", "1", 20), source)
    due = arrivals(100.0, 20, random.Random(3))
    answers = sorted(run.answers, key=lambda answer: answer.intended)
    assert [answer.intended for answer in answers] == due
    # A timer of the event loop may come early by the resolution of its clock.
    assert all(answer.sent >= answer.intended - 0.01 for answer in answers)
    assert run.seconds >= due[-1] - 0.01


async def test_closed_loop_has_so_many_at_a_time() -> None:
    """With four clients the fourth question releases the first."""
    run = Run(4, None)
    work = carry_out(run, Slow(4), questions("chat", "1", 12), random.Random(1))
    await asyncio.wait_for(work, 60)
    assert len(run.answers) == 12
    assert all(answer.intended <= answer.sent for answer in run.answers)


@pytest.mark.parametrize("rate", [None, 1000.0])
async def test_cancelled_run_keeps_what_it_has(rate: float | None) -> None:
    """Who has no answer yet is not counted."""
    run = Run(None if rate else 3, rate)
    work = asyncio.ensure_future(
        carry_out(run, Slow(1000), questions("chat", "1", 5), random.Random(1))
    )
    asyncio.get_running_loop().call_later(0.05, work.cancel)
    with pytest.raises(asyncio.CancelledError):
        await work
    assert (run.interrupted, run.answers) == (True, [])
    assert len(asyncio.all_tasks()) == 1


def test_latency_counts_from_when_it_was_due() -> None:
    """A client that came late does not make the server faster."""
    some = figures.of_run(Run(None, 1.0, 0.0, 10.0, False, [whole()]))
    assert (some.first_token.p50, some.latency.p99) == (3.0, 5.0)
    assert (some.inter_token.p50, some.inter_token.p99) == (0.5, 1.5)


def test_percentiles_are_values_that_were_measured() -> None:
    """By nearest rank."""
    hundred = [float(number) for number in range(1, 101)]
    assert [figures.percentile(hundred, part) for part in (0.5, 0.95, 0.99)] == [50, 95, 99]
    assert figures.percentile([7.0], 0.5) == figures.percentile([7.0], 0.99) == 7
    assert figures.percentile([], 0.5) is None


def test_failures_add_nothing_to_the_speed() -> None:
    """Neither their tokens nor their times."""
    answers = [
        whole(completion_tokens=10, prompt_tokens=30, cached_tokens=12),
        whole(error="cut", completion_tokens=99, prompt_tokens=99, ended=99.0),
    ]
    some = figures.of_run(Run(1, None, 0.0, 5.0, False, answers))
    assert (some.ok, some.failed, some.tokens, some.tokens_per_second) == (1, {"cut": 1}, 10, 2)
    assert (some.prompt_tokens_per_second, some.cached_share, some.latency.p99) == (6, 0.4, 5)


def test_tokens_that_come_in_bundles_are_told() -> None:
    """Their gaps are not those of tokens."""
    report = Report("http://x", "m", "1", "off", "chat", 1, [Run(1, None, answers=[])])
    report.runs[0].answers = [whole(completion_tokens=3)]
    assert notes(report) == []
    report.runs[0].answers = [whole(completion_tokens=30)]
    assert notes(report) == [
        "several tokens come in a piece: inter-token is the time between pieces"
    ]


def test_events_are_read_however_they_are_split() -> None:
    """Byte by byte, with comments, CRLF, and separators that are none."""
    stream = (
        b': hello\r\ndata: {"choices":[{"delta":{"role":"assistant"}}]}\r\n\r\n'
        b'data:{"choices":[{"delta":{"content":"a\xe2\x80\xa8b"}}],"model":"m"}\n\n'
        b'data: {"choices":[{"delta":{"reasoning_content":"c"},"finish_reason":"stop"}]}\n\n'
        b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}\n\n'
        b"data: [DONE]\n\n"
    )
    times = iter(range(1000))
    answer = Answer("chat", 0.0, 0.0)
    reader = Reader(answer, lambda: next(times))
    for byte in stream:
        reader.feed(bytes([byte]))
    reader.finish(structured=True)
    assert (len(answer.pieces), answer.model, answer.valid) == (2, "m", False)
    assert (answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens) == (5, 2, None)
    assert 0 < answer.pieces[0] < answer.pieces[1] < answer.ended < len(stream)


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (b"", "cut"),
        (b"data: [DONE]\n\n", "no_finish_reason"),
        (b'data: {"choices":[{"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n', "empty_answer"),
        (b'event: error\ndata: {"message":"m","code":"oom"}\n\n', "oom"),
        (b"event: error\ndata: broken\n\n", "stream_error"),
        (b'data: {"error":"just words"}\n\n', "stream_error"),
        (b'data: {"error":{"message":"m","code":500,"type":"server"}}\n\n', "server"),
        (b"data: \xff\n\n", "bad_answer"),
        (b"x" * 4_000_001, "bad_answer"),
    ],
)
def test_streams_that_are_no_answers(stream: bytes, code: str) -> None:
    """Each with a code to count it by."""
    reader = Reader(Answer("chat", 0.0, 0.0), lambda: 0.0)

    def read() -> None:
        reader.feed(stream)
        reader.finish(structured=False)

    with pytest.raises(NoAnswer) as caught:
        read()
    assert caught.value.code == code


@pytest.mark.parametrize("highest", [0.0, 0.004, 0.07, 1.0, 9.9, 10.0, 733.0])
def test_picture_of_any_size(highest: float) -> None:
    """Every point lies within its panel, whatever was measured and however it is called."""
    last = whole(pieces=[1.0 + highest], ended=1.0 + highest, completion_tokens=3)
    runs = [Run(count, None, 0.0, 1.0, False, [last, whole(error="cut")]) for count in (1, 8)]
    report = Report("http://x/?a&b", "<m>", None, "off", "chat", 1, runs)
    root = ElementTree.fromstring(chart.draw(report))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for circle in root.iter("{http://www.w3.org/2000/svg}circle"):
        assert 0 <= float(circle.attrib["cx"]) <= width
        assert chart.TOP - 0.1 <= float(circle.attrib["cy"]) <= chart.TOP + chart.HEIGHT < height
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "chat: <m>" in texts
    assert texts.count("1 failed") == 2


def test_picture_where_everything_failed() -> None:
    """There are axes and no points but those of no throughput."""
    report = Report("http://x", None, None, "off", "chat", 1)
    report.runs = [Run(None, 0.5, 0.0, 1.0, False, [whole(error="cut")])]
    root = ElementTree.fromstring(chart.draw(report))
    assert len(root.findall("{*}circle")) == 1
    assert "requests per second" in [element.text for element in root.findall("{*}text")]
