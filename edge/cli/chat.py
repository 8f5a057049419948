"""`edge chat`: one question, or a conversation, with the running daemon.

The conversation is kept here and sent whole with each question, as the API wants it. An answer
that failed is forgotten with its question; one that the user stopped stays as far as it came.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from contextlib import closing
from typing import Any

import click

from edge.cli import failure, options, output
from edge.cli.client import Client, CutAnswer, Timings, Usage
from edge.config import reader
from edge.errors import EdgeError


@click.command("chat")
@click.argument("prompt", required=False)
@click.option("--model", metavar="NAME", help="Model to ask; else the daemon's default.")
@click.option("--system", metavar="TEXT", help="System prompt.")
@click.option(
    "--temperature", metavar="T", type=click.FloatRange(0, 2), help="0 takes the likeliest words."
)
@click.option("--max-tokens", metavar="N", type=click.IntRange(1), help="Longest answer.")
@options.url
@options.config_file
def command(
    prompt: str | None,
    model: str | None,
    system: str | None,
    temperature: float | None,
    max_tokens: int | None,
    url: str | None,
    config_file: str | None,
) -> None:
    """Ask the running daemon.

    Without PROMPT it is a conversation on a terminal, and from a pipe the input is the prompt.
    Ctrl-C stops an answer; a second one, or Ctrl-D, leaves.
    """
    wanted = {"model": model, "temperature": temperature, "max_tokens": max_tokens}
    body = {key: value for key, value in wanted.items() if value is not None}
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read()
    if prompt is not None and not prompt.strip():
        raise click.UsageError("the prompt is empty")
    with Client(url or options.daemon_url(reader.load(config_file))) as client:
        conversation = Conversation(client, system, body)
        if prompt is None:
            talk(conversation)
        else:
            _answer(conversation, prompt)


class Conversation:
    """The turns so far, and what was measured about the last answer."""

    def __init__(self, client: Client, system: str | None, body: dict[str, Any]) -> None:
        self.client = client
        self.body = body
        self.messages = [{"role": "system", "content": system}] if system else []
        self.usage: Usage | None = None
        self.timings: Timings | None = None
        self.finish_reason: str | None = None
        self.seconds = 0.0

    def ask(self, prompt: str) -> Generator[str, None, None]:
        """The answer in pieces. Closing it early cancels the rest of it in the daemon."""
        question = {"role": "user", "content": prompt}
        self.usage = self.timings = self.finish_reason = None
        said: list[str] = []
        body = {
            **self.body,
            "messages": [*self.messages, question],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        started = 0.0
        try:
            with closing(self.client.chat(body)) as chunks:
                for chunk in chunks:
                    self.usage = chunk.usage or self.usage
                    self.timings = chunk.timings or self.timings
                    for choice in chunk.choices:
                        self.finish_reason = choice.finish_reason or self.finish_reason
                        if choice.delta.content:
                            started = started or time.monotonic()
                            said.append(choice.delta.content)
                            yield choice.delta.content
        except (GeneratorExit, KeyboardInterrupt):
            if said:
                self._remember(question, said)
            raise
        if self.finish_reason is None:
            raise CutAnswer("the answer was cut: it has no finish_reason", hint="ask again")
        self.seconds = time.monotonic() - started if started else 0.0
        self._remember(question, said)

    def speed(self) -> str:
        """`42 tokens, 31.5 tokens/s`, the daemon's measure where it gives one, else ours."""
        if self.usage is None:
            return ""
        count = self.usage.completion_tokens
        rate = self.timings.predicted_per_second if self.timings else None
        # The first token came with the clock's start, so it is not in our time.
        if rate is None and count > 1 and self.seconds > 0:
            rate = (count - 1) / self.seconds
        details = self.usage.prompt_tokens_details
        parts = [
            f"{count} tokens",
            f"{rate:.1f} tokens/s" if rate is not None else "",
            f"prompt {self.usage.prompt_tokens}",
            f"{details.cached_tokens} of it cached" if details and details.cached_tokens else "",
            "stopped at the token limit" if self.finish_reason == "length" else "",
        ]
        return ", ".join(part for part in parts if part)

    def _remember(self, question: dict[str, str], said: list[str]) -> None:
        self.messages += [question, {"role": "assistant", "content": "".join(said)}]


def _answer(conversation: Conversation, prompt: str) -> None:
    """Print one answer as it comes. On the way out, however it ends, the line is finished."""
    on_terminal = sys.stdout.isatty()
    ended = True
    try:
        with closing(conversation.ask(prompt)) as pieces:
            for piece in pieces:
                # Before it is shown, since Ctrl-C may come right after.
                ended = piece.endswith("\n")
                click.echo(output.harmless(piece) if on_terminal else piece, nl=False)
    finally:
        if not ended:
            click.echo()
    if on_terminal:
        click.secho(conversation.speed(), dim=True)


def talk(conversation: Conversation) -> None:
    """Questions and answers until the user leaves; a failed answer does not end it."""
    import readline  # noqa: F401  # gives input() its line editing and history

    click.secho(f"Talking to {conversation.client.url}. Ctrl-D leaves.", dim=True)
    interrupts = 0
    while interrupts < 2:
        try:
            prompt = input("> ")
            interrupts = 0
            if prompt.strip():
                _answer(conversation, prompt)
        except EOFError:
            click.echo()
            return
        except KeyboardInterrupt:
            interrupts += 1
            click.secho("\n(Ctrl-C again leaves)" if interrupts == 1 else "", dim=True)
        except EdgeError as error:
            failure.report(error.message, error.hint)
