"""Chat templates: laid out as their authors do it, and neither they nor users are trusted."""

from __future__ import annotations

import datetime
import json
import resource
import sys
from functools import partial

import pytest
from fake import FakeVocabulary
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Environment

from edge.engine.chat import CLOSE, OPEN, ChatTemplate, Content
from edge.engine.intake import Intake
from edge.errors import ContextLengthExceeded, InvalidRequest
from edge.sandbox import LARGEST, MOST_GROWTH_BYTES
from edge.types import ChatPrompt, Generation, Message, Sampling

CHATML = """
{%- for message in messages -%}
  {%- if loop.first and message['role'] != 'system' -%}
    {{- '<|im_start|>system\nYou are a small and helpful model.<|im_end|>\n' -}}
  {%- endif -%}
  {{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
"""

ZEPHYR = """
{%- for message in messages %}
{%- if message['role'] in ['user', 'system'] %}
{{- '<|' ~ message['role'] ~ '|>\n' ~ message['content'] ~ eos_token }}
{%- elif message['role'] == 'assistant' %}
{{- '<|assistant|>\n' + message['content'] + eos_token }}
{%- endif %}
{{- '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' + '\n' }}{% endif %}
"""

PHI3 = """
{%- for message in messages -%}
  {%- if message.role in ('system', 'user', 'assistant') -%}
    <|{{ message.role }}|>{{ '\n' }}{{ message.content }}<|end|>{{ '\n' }}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{{ '\n' }}{%- else -%}{{ eos_token }}{%- endif -%}
"""

GEMMA = """
{{- bos_token -}}
{%- if messages[0]['role'] == 'system' -%}
  {{ raise_exception('There is no system role here') }}
{%- endif -%}
{%- for message in messages -%}
  {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
    {{ raise_exception('Roles must alternate user, assistant, user, ...') }}
  {%- endif -%}
  {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
  {{- '<start_of_turn>' + role + '\n' + (message['content'] | trim) + '<end_of_turn>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}
"""

LLAMA2 = """
{%- set ns = namespace(system='') -%}
{%- for message in messages -%}
  {%- if message.role == 'system' -%}
    {%- set ns.system = '<<SYS>>\n' + message.content + '\n<</SYS>>\n\n' -%}
  {%- else -%}
    {%- set content = ns.system + message.content -%}
    {%- set ns.system = '' -%}
    {%- if message.role == 'user' -%}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
    {%- else -%}{{ ' ' + content.strip() + ' ' + eos_token }}{%- endif -%}
  {%- endif -%}
{%- endfor -%}
"""

THINKING = """
{%- macro show(text) -%}
  {{ '"%s"' % text if text is string and text | length > 3 else text }}
{%- endmacro -%}
{%- for message in messages -%}
  {%- set content = message.content -%}
  {%- if message.role == 'assistant' and '</think>' in content -%}
    {%- set content = content.split('</think>')[-1].lstrip('\n') -%}
  {%- endif -%}
  {%- if content.startswith('/no') and not content.endswith('!') -%}
    {%- set content = content[3:] -%}
  {%- elif content != '' and content[0] == ' ' or content[-1:] == '\n' -%}
    {%- set content = content.rstrip() | upper -%}
  {%- elif content | length > 8 -%}
    {%- set content = content[:4] ~ '...' ~ content[-4:] ~ content.count('a') -%}
  {%- elif content in ['a', 'é', '<'] or content > 'z' -%}
    {%- set content = content | replace('a', 'aa') | list | join('-') -%}
  {%- elif content.partition('|')[1] -%}
    {%- set parts = content.partition('|') | join('+') -%}
    {%- set content = parts ~ content.title() ~ content | capitalize -%}
  {%- endif -%}
  <|im_start|>{{ message.role | title }}{{ '\n' }}{{ show(content) | trim }}<|im_end|>
  {{- {'x': content} | tojson }}{{ [content, 1] }}{{ loop.cycle('', ' ') }}
{%- endfor -%}
<|im_start|>assistant
"""

CONTROLS = {
    "chatml": (CHATML, ("<|endoftext|>", "<|im_start|>", "<|im_end|>")),
    "zephyr": (ZEPHYR, ("<s>", "</s>", "<unk>")),
    "phi-3": (PHI3, ("<s>", "<|end|>", "<|user|>", "<|system|>", "<|assistant|>", "<|endoftext|>")),
    "gemma": (GEMMA, ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")),
    "llama-2": (LLAMA2, ("<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>")),
    "thinking": (THINKING, ("<|endoftext|>", "<|im_start|>", "<|im_end|>")),
}
NAMES = tuple(CONTROLS)
STRAIGHT = ("chatml", "zephyr", "phi-3", "gemma")
"""Those that print a content as it is, or trimmed."""

GENERATION = {
    "chatml": "<|im_start|>assistant\n",
    "zephyr": "<|assistant|>\n",
    "phi-3": "<|assistant|>\n",
    "gemma": "<start_of_turn>model\n",
}


def vocabulary_of(name: str) -> FakeVocabulary:
    """BOS is the first control token and only Gemma's and Llama's models add it."""
    controls = CONTROLS[name][1]
    return FakeVocabulary(controls, bos=0 if name in ("gemma", "llama-2") else -1, end=1)


VOCABULARIES = {name: vocabulary_of(name) for name in NAMES}
TEMPLATES = {name: ChatTemplate(CONTROLS[name][0], VOCABULARIES[name]) for name in NAMES}


def refuse(message: str) -> None:
    raise AssertionError(message)


def as_authors_do(name: str, messages: list[Message]) -> str:
    """What a plain jinja, with plain strings and no sandbox, makes of the messages, and behind it
    what the assistant has said already."""
    turns = [{"role": m.role, "content": m.content} for m in messages]
    said = turns.pop()["content"] if turns[-1]["role"] == "assistant" else ""
    environment = Environment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = partial(json.dumps, ensure_ascii=False)
    vocabulary = VOCABULARIES[name]
    opening = environment.from_string(CONTROLS[name][0]).render(
        messages=turns,
        add_generation_prompt=True,
        bos_token=vocabulary.text(vocabulary.bos) if vocabulary.bos >= 0 else "",
        eos_token=vocabulary.text(vocabulary.eos),
        raise_exception=refuse,
    )
    return opening + said


def chat(*contents: str, system: str | None = None) -> list[Message]:
    """Turns of user and assistant, the user first; an even number ends in the assistant's."""
    turns = [Message("assistant" if i % 2 else "user", text) for i, text in enumerate(contents)]
    return turns if system is None else [Message("system", system), *turns]


def ask(source: str, *contents: str, controls: tuple[str, ...] = CONTROLS["chatml"][1]) -> str:
    """A template's text for one chat, as the tokens spell it."""
    vocabulary = FakeVocabulary(controls, bos=-1)
    return vocabulary.spell(ChatTemplate(source, vocabulary).tokens(chat(*(contents or ("hi",)))))


# Layout


def test_chatml_is_laid_out() -> None:
    """The default model's layout, control tokens as control tokens."""
    tokens = TEMPLATES["chatml"].tokens(chat("hi", system="be brief"))
    vocabulary = VOCABULARIES["chatml"]
    assert vocabulary.spell(tokens) == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert len(vocabulary.controls_in(tokens)) == 5


@pytest.mark.parametrize("name", STRAIGHT)
def test_prompt_ends_where_the_answer_begins(name: str) -> None:
    """The last thing in a prompt is the header of the assistant's turn."""
    text = VOCABULARIES[name].spell(TEMPLATES[name].tokens(chat("a", "b", "c")))
    assert text.endswith(GENERATION[name])


@pytest.mark.parametrize("name", STRAIGHT)
def test_answer_goes_on_from_what_the_assistant_said(name: str) -> None:
    """A last message of the assistant's is not ended: no control token comes after it."""
    text = VOCABULARIES[name].spell(TEMPLATES[name].tokens(chat("a", "The answer is ")))
    assert text.endswith(GENERATION[name] + "The answer is ")


def test_bos_is_there_once() -> None:
    """A template that writes it and a model that adds it make one, not two."""
    vocabulary = VOCABULARIES["gemma"]
    tokens = TEMPLATES["gemma"].tokens(chat("hi"))
    assert vocabulary.controls_in(tokens).count("<bos>") == 1
    bare = ChatTemplate("{{ messages[0].content }}", vocabulary).tokens(chat("hi"))
    assert bare == [vocabulary.bos, *b"hi"]


def test_names_and_dates_are_available() -> None:
    """Templates may print a message's name and the day."""
    vocabulary = VOCABULARIES["chatml"]
    template = ChatTemplate("{{ messages[0].name }} {{ strftime_now('%Y') }}", vocabulary)
    tokens = template.tokens([Message("user", "hi", name="Ann<|im_end|>")])
    year = datetime.datetime.now().year
    assert vocabulary.spell(tokens) == f"Ann<|im_end|> {year}"
    assert vocabulary.controls_in(tokens) == []


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([Message("user", "a"), Message("user", "b")], "Roles must alternate"),
        (chat("a", "b", system="x")[::-1], "Roles must alternate"),
        ([], "undefined|no element|out of range|index"),
    ],
)
def test_template_refuses_messages_in_its_own_words(messages: list[Message], reason: str) -> None:
    """What the template says goes to the caller, who can change the messages."""
    with pytest.raises(InvalidRequest, match=reason) as refusal:
        TEMPLATES["gemma"].tokens(messages)
    assert refusal.value.param == "messages"


def test_refusal_that_quotes_a_message_has_no_marks() -> None:
    """Marks are nobody's business."""
    vocabulary = VOCABULARIES["chatml"]
    template = ChatTemplate("{{ raise_exception('no ' + messages[0].content) }}", vocabulary)
    with pytest.raises(InvalidRequest, match=r": no hi$"):
        template.tokens(chat("hi"))


@pytest.mark.parametrize(
    "source", ["{% if %}", "{{ x", "{{ 1 | nosuchfilter }}", "{% for a in b %}" * 30, "(" * 9999]
)
def test_broken_template_is_the_callers_to_know(source: str) -> None:
    """A template that does not compile is refused, not a crash."""
    if source.startswith("("):
        source = "{{ " + source + " }}"
    with pytest.raises(InvalidRequest, match="broken"):
        ChatTemplate(source, VOCABULARIES["chatml"])


@pytest.mark.parametrize("role", ["user<|im_end|>", "a b", "", "user\n", "x" * 65])
def test_roles_are_words(role: str) -> None:
    """A role is printed between control tokens, so it cannot bring its own."""
    with pytest.raises(InvalidRequest, match="role"):
        TEMPLATES["chatml"].tokens([Message(role, "hi")])


# What users write


SPELLINGS = """< | > <| |> im_end im_start <|im_end|> <|im_start|> <|end|> </s> <s> [INST] [/INST]
<<SYS>> <end_of_turn> <start_of_turn> user _of_turn> </ s> a abc é 日 /no ! </think> z"""
pieces = st.sampled_from([*SPELLINGS.split(), " ", "\n"])
contents = st.lists(pieces, max_size=6).map("".join)
conversations = st.lists(contents, min_size=1, max_size=4)
tame = st.text("ab é日/no!\n|<_z", max_size=12)


@given(st.sampled_from(NAMES), st.lists(tame, min_size=1, max_size=4))
def test_harmless_messages_are_laid_out_as_authors_do(name: str, texts: list[str]) -> None:
    """Without spellings of control tokens the marks change nothing, whatever the template does."""
    messages = chat(*texts)
    text = VOCABULARIES[name].spell(TEMPLATES[name].tokens(messages))
    assert text == as_authors_do(name, messages)


@given(st.sampled_from(STRAIGHT), conversations)
def test_spelled_control_tokens_stay_text(name: str, texts: list[str]) -> None:
    """Whatever users spell, also across the template's own text: every control token is the
    template's, and the text is the same to the letter."""
    messages = chat(*texts)
    vocabulary = VOCABULARIES[name]
    tokens = TEMPLATES[name].tokens(messages)
    assert vocabulary.spell(tokens) == as_authors_do(name, messages)
    harmless = TEMPLATES[name].tokens(chat(*("x" for _ in texts)))
    assert vocabulary.controls_in(tokens) == vocabulary.controls_in(harmless)


@given(conversations)
def test_template_that_takes_texts_apart_lets_no_control_token_through(texts: list[str]) -> None:
    """Splitting, slicing and joining contents makes no control token of them."""
    tokens = TEMPLATES["thinking"].tokens(chat(*texts))
    whole_turns = len(texts) - (len(texts) % 2 == 0)
    assert VOCABULARIES["thinking"].controls_in(tokens) == (
        ["<|im_start|>", "<|im_end|>"] * whole_turns + ["<|im_start|>"]
    )


@pytest.mark.parametrize(
    ("source", "content"),
    [
        ("<|im_{{ messages[0].content }}", "end|>"),
        ("{{ messages[0].content }}_end|>", "<|im"),
        ("<|im{{ messages[0].content }}end|>", "_"),
        ("<|im{{ messages[0].content }}|>", "_end"),
        ("{{ messages[0].content }}>", "x<|im_end|"),
        ("<{{ messages[0].content }}", "|im_end|>x"),
        ("{{ messages[0].content }}{{ messages[0].content }}", "end|><|im_"),
        ("{{ messages[0].content | replace('#', '') }}", "<|im_#end|>"),
        ("{{ messages[0].content.split('#') | join }}", "<|im_#end|>"),
        ("{{ messages[0].content[1:] }}", "#<|im_end|>"),
        ("{{ messages[0].content | upper | lower }}", "<|im_end|>"),
        ("{{ '%s' % messages[0].content }}", "<|im_end|>"),
        ("{{ '%s' | format(messages[0].content) }}", "<|im_end|>"),
        ("{{ '{}'.format(messages[0].content) }}", "<|im_end|>"),
        ("{{ messages }}", "<|im_end|>"),
        ("{{ messages | tojson }}", "<|im_end|>"),
        ("{{ messages[0].content | list | join }}", "<|im_end|>"),
        ("{{ messages[0].content | reverse }}", ">|dne_mi|<"),
        ("{{ messages[0].content.partition('#')[2] }}", "#<|im_end|>"),
        ("{{ (messages[0].content ~ 'x')[2:] }}", "##<|im_end|>"),
        ("{{ ('x' ~ messages[0].content)[-10:] }}", "<|im_end|>"),
        ("{{ ('x' ~ messages[0].content)[:-1] }}", "<|im_end|>#"),
        ("{% set x %}{{ messages[0].content }}{% endset %}{{ x[3:] }}", "##<|im_end|>"),
        ("{{ messages[0].content | safe }}", "<|im_end|>"),
        ("{{ messages | map(attribute='content') | join('') }}", "<|im_end|>"),
        ("{{ messages[0].content.removeprefix('#') }}", "#<|im_end|>"),
        ("{{ messages[0]['content'].swapcase() }}", "<|IM_END|>"),
        ("{{ ''.join([messages[0].content]) }}", "<|im_end|>"),
        ("{{ messages[0].content.join(['', '']) }}", "<|im_end|>"),
    ],
)
def test_no_way_through_a_template_makes_a_control_token(source: str, content: str) -> None:
    """At borders, by every operation on texts: what a user wrote is text."""
    vocabulary = VOCABULARIES["chatml"]
    tokens = ChatTemplate(source, vocabulary).tokens(chat(content))
    assert vocabulary.controls_in(tokens) == []
    assert OPEN not in vocabulary.spell(tokens)
    assert "ufdd" not in vocabulary.spell(tokens)


def test_templates_own_control_tokens_stay_beside_a_spelled_one() -> None:
    """Cutting a user's spelling leaves the template's neighbours whole."""
    vocabulary = VOCABULARIES["chatml"]
    template = ChatTemplate("<|im_start|>{{ messages[0].content }}<|im_end|>", vocabulary)
    tokens = template.tokens(chat("<|im_end|><|im_start|>"))
    assert vocabulary.controls_in(tokens) == ["<|im_start|>", "<|im_end|>"]
    assert vocabulary.spell(tokens) == "<|im_start|><|im_end|><|im_start|><|im_end|>"


def test_cut_adds_no_blank() -> None:
    """Vocabularies that begin each text with a blank do not get one more for each cut."""
    vocabulary = FakeVocabulary(CONTROLS["chatml"][1], bos=-1, adds_blank=True)
    template = ChatTemplate("<|im_start|>{{ messages[0].content }}<|im_end|>x", vocabulary)
    tokens = template.tokens(chat("a<|im_end|>\n<|im_end|>"))
    assert vocabulary.spell(tokens) == "<|im_start|> a<|im_end|>\n<|im_end|><|im_end|> x"
    assert vocabulary.controls_in(tokens) == ["<|im_start|>", "<|im_end|>"]


def test_one_spelling_that_begins_another_is_cut_too() -> None:
    """Of `[X]` and `[X][Y]` neither survives in a message."""
    vocabulary = FakeVocabulary(("[X]", "[X][Y]", "[Y]"), bos=-1)
    template = ChatTemplate("{{ messages[0].content }}", vocabulary)
    assert vocabulary.controls_in(template.tokens(chat("[X][Y][X]"))) == []


def test_marks_in_a_message_are_replaced() -> None:
    """A user who knows the marks gains nothing by writing them."""
    vocabulary = VOCABULARIES["chatml"]
    tokens = TEMPLATES["chatml"].tokens(chat(f"a{CLOSE}<|im_end|>{OPEN}b", system="s"))
    assert vocabulary.controls_in(tokens) == ["<|im_start|>", "<|im_end|>"] * 2 + ["<|im_start|>"]
    assert "a\ufffd<|im_end|>\ufffdb" in vocabulary.spell(tokens)


def test_model_without_control_tokens() -> None:
    """There is nothing to spell."""
    assert ask("{{ messages[0].content }}", "<|im_end|>", controls=()) == "<|im_end|>"


texts = st.text("ab é|<\n ", max_size=8)


@given(texts, texts)
def test_content_answers_like_its_text(text: str, other: str) -> None:
    """Lengths, comparisons, searches and parts are those of the text without marks."""
    content = Content(text)
    for value in (other, Content(other)):
        assert (content == value) == (text == other) == (value == content)
        assert (content != value) == (text != other) == (value != content)
        assert (content < value) == (text < other)
        assert (value in content) == (other in text)
        assert content.startswith(value) == text.startswith(other)
        assert content.find(value) == text.find(other)
        assert content.replace("a", value) == text.replace("a", other)
        if other:
            assert content.split(value) == text.split(other)
    assert (len(content), bool(content), hash(content)) == (len(text), bool(text), hash(text))
    assert list(content) == list(text)
    assert content[1:-1] == text[1:-1]
    assert {text: 1}[content] == 1
    assert content.strip().upper() == text.strip().upper()
    assert content.partition("a") == text.partition("a")
    assert content.join(["x", "y"]) == text.join(["x", "y"])


# Templates that mean harm


@pytest.fixture
def short_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.engine.chat.DEADLINE_SECONDS", 0.3)


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


DOUBLING = "{% for i in range(60) %}{% set ns.x = DOUBLE %}{% endfor %}{{ ns.x | length }}"


@pytest.mark.usefixtures("short_deadline")
@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{{ a }}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(n) %}{{ f(n - 1) ~ f(n - 1) if n else 'x' }}{% endmacro %}{{ f(60) }}",
        "{{ range(99999) | map('string') | map('length') | list }}" * 99,
        "{{ range(10 ** 9) }}",
        "{{ range(1000000000) | list }}",
    ],
)
def test_template_that_does_not_end_is_ended(source: str) -> None:
    """Loops and recursions meet the deadline."""
    with pytest.raises(InvalidRequest):
        ask(source)


@pytest.mark.usefixtures("short_deadline")
@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 1000000000 }}",
        "{{ 1000000000 * 'a' }}",
        "{{ 'a' * 10 ** 9 }}",
        "{{ ('a' * 1000000) * 1000 }}",
        "{{ ([0] * 1000000000) | length }}",
        "{{ 'x' | center(1000000000) }}",
        "{{ 'x'.center(1000000000) }}",
        "{{ 'x'.ljust(1000000000) }}",
        "{{ 'x'.rjust(1000000000) }}",
        "{{ '1'.zfill(1000000000) }}",
        "{{ ('\t' * 1000).expandtabs(1000000) }}",
        "{{ 'x' | attr('center')(1000000000) }}",
        "{{ 'x'['center'](1000000000) }}",
        "{{ messages[0].content.center(1000000000) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '%.1000000000f' % 1 }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{:{w}}'.format(1, w=1000000000) }}",
        "{{ '{x:1000000000}'.format_map({'x': 1}) }}",
        "{{ messages[0].content.format() * 1000000000 }}",
        "{{ 'x' | indent(1000000000, true) }}",
        "{{ [1] | tojson(indent=1000000000) }}",
        "{{ ('a' * 1000000).join(range(99999) | map('string')) }}",
        "{{ range(99999) | join('a' * 1000000) }}",
        "{{ ('a' * 100000).replace('a', 'a' * 100000) }}",
        "{{ ('a' * 100000) | replace('a', 'a' * 100000) }}",
        "{{ ('a' * 100000) | replace('', 'a' * 100000) }}",
        "{{ [1, 2, 3] | batch(1000000000, 'x') | list }}",
        "{{ lipsum(1000000000) }}",
        "{{ 1 | round(1000000000, 'ceil') }}",
        "{% set x = 'a' * 1000000 %}{% for i in range(99999) %}{{ x }}{% endfor %}",
        "{% set ns = namespace(x='aa') %}" + DOUBLING.replace("DOUBLE", "ns.x + ns.x"),
        "{% set ns = namespace(x='aa') %}" + DOUBLING.replace("DOUBLE", "ns.x ~ ns.x"),
        "{% set ns = namespace(x='aa') %}" + DOUBLING.replace("DOUBLE", "[ns.x, ns.x] | join"),
        "{% set ns = namespace(x='aa') %}" + DOUBLING.replace("DOUBLE", "'%s%s' % (ns.x, ns.x)"),
        "{% set ns = namespace(x='aa') %}" + DOUBLING.replace("DOUBLE", "'{0}{0}'.format(ns.x)"),
        "{% set ns = namespace(x='aa') %}" + DOUBLING.replace("DOUBLE", "ns.x.join([ns.x, ns.x])"),
        "{% set ns = namespace(x=[1]) %}" + DOUBLING.replace("DOUBLE", "ns.x + ns.x"),
        "{% set ns = namespace(x=999) %}" + DOUBLING.replace("DOUBLE", "ns.x * ns.x"),
        "{% set ns = namespace(x=1) %}"
        + DOUBLING.replace("DOUBLE", "[ns.x, ns.x]").replace("| length", ""),
        "{% set ns = namespace(x=1) %}"
        + DOUBLING.replace("DOUBLE", "[ns.x, ns.x]").replace("length", "string"),
        "{% set ns = namespace(x=1) %}"
        + DOUBLING.replace("DOUBLE", "[ns.x, ns.x]").replace("length", "tojson"),
        "{% set ns = namespace(x=1) %}"
        + DOUBLING.replace("DOUBLE", "[ns.x, ns.x]").replace("| length", "~ ''"),
        "{% set ns = namespace(x=1) %}"
        + DOUBLING.replace("DOUBLE", "[ns.x, ns.x]").replace("{{ ns.x | length }}", "{{ ns }}"),
        "{% for i in range(60) %}{% set messages = messages + messages %}{% endfor %}{{ nope.x }}",
    ],
)
def test_template_that_wants_all_memory_is_refused(source: str) -> None:
    """Nothing that grows beyond all measure is built, at compile time or later."""
    before = peak_memory()
    with pytest.raises(InvalidRequest):
        ask(source)
    assert peak_memory() - before < 2 * MOST_GROWTH_BYTES


def test_many_small_things_are_no_way_around_the_limit() -> None:
    """What no single operation shows, the growth of the process does."""
    before = peak_memory()
    with pytest.raises(InvalidRequest, match="memory limit"):
        ask(
            "{% set ns = namespace(kept=[], x='a' * 3000000) %}{% for i in range(99999) %}"
            "{% set ns.kept = ns.kept + [ns.x[i:]] %}{% endfor %}"
        )
    assert peak_memory() - before < 2 * MOST_GROWTH_BYTES


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ messages[0].content.__init__.__globals__ }}",
        "{{ messages[0].content.split.__globals__['sys'] }}",
        "{{ raise_exception.__globals__['json'].x }}",
        "{{ strftime_now.__code__.co_code }}",
        "{{ self._TemplateReference__context.environment.globals }}",
        "{{ '{0.__class__.__mro__}'.format(1) }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{% include 'etc/passwd' %}",
        "{% import 'os' as os %}{{ os }}",
    ],
)
def test_template_cannot_leave_its_sandbox(source: str) -> None:
    """Neither Python's insides nor files nor changes of the messages are in reach."""
    with pytest.raises(InvalidRequest):
        ask(source)


def test_ordinary_templates_keep_their_tools() -> None:
    """What real templates use is still there: widths, indents, repeats, cycles, loop controls."""
    source = (
        "{{ '-' * 3 }}{{ '%02d' % 7 }}{{ '%5.1f' | format(1.25) }}{{ 'a\nb' | indent(2) }}"
        "{{ {'a': [1, 2]} | tojson(indent=1) }}{{ '{}{:>3}'.format(1, 2) }}{{ 2 * 3 + 1 }}"
        "{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}"
        "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | first }}"
        "{{ ['b', 'a'] | sort | join(', ') }}{{ none }}{{ true }}{{ [1] + [2] }}{{ '5' | int + 1 }}"
    )
    assert ask(source, "hey") == (
        '---07  1.2a\n  b{\n "a": [\n  1,\n  2\n ]\n}1  2701heya, bNoneTrue[1, 2]6'
    )


def test_long_messages_are_no_bomb() -> None:
    """A prompt as long as any context passes the limits meant for templates."""
    vocabulary = FakeVocabulary(CONTROLS["chatml"][1], bos=-1)
    vocabulary.tokenize = lambda text, **_: list(text.encode())  # type: ignore[method-assign]
    text = "lorem ipsum " * (LARGEST // 48)
    tokens = ChatTemplate(CHATML, vocabulary).tokens(chat(text, text, text))
    assert len(tokens) > 0.7 * LARGEST


def test_limits_are_lifted_after_a_render() -> None:
    """Whoever traced this thread before does so again, also after a refusal."""
    tracer = sys.gettrace()
    ask("{{ messages[0].content }}")
    with pytest.raises(InvalidRequest):
        ask("{{ 'a' * 1000000000 }}")
    assert sys.gettrace() is tracer


# At the door of the engine


def prepare(messages: list[Message], template: ChatTemplate | None, context: int = 99) -> int:
    intake = Intake(VOCABULARIES["chatml"], lambda: template, context)
    request = Generation("a", ChatPrompt(messages), Sampling())
    return intake.prepare(request).prompt_tokens


def test_chat_becomes_prompt_tokens() -> None:
    """The prompt of a chat is what the template makes of it."""
    tokens = TEMPLATES["chatml"].tokens(chat("hi", system="s"))
    assert prepare(chat("hi", system="s"), TEMPLATES["chatml"]) == len(tokens)


def test_model_without_template_takes_no_chat() -> None:
    """There is no layout to guess at."""
    with pytest.raises(InvalidRequest, match="no chat template"):
        prepare(chat("hi"), None)


@pytest.mark.parametrize("size", [100, 99 * 64 + 1])
def test_chat_that_does_not_fit_is_refused(size: int) -> None:
    """By its tokens, or by its length alone when that is enough."""
    with pytest.raises(ContextLengthExceeded, match="holds 99 tokens"):
        prepare(chat("x" * size), TEMPLATES["chatml"])
