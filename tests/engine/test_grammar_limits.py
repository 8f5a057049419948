"""Which grammars are refused by their looks, and that ordinary ones are not."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from fake import FakeBackend

from edge.engine.grammar import MOST_COMPILED, Grammars
from edge.engine.grammar_limits import LARGEST, check
from edge.errors import EdgeError, InvalidRequest
from edge.types import Grammar

UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"


def schema(value: Any) -> Grammar:
    return Grammar("json_schema", json.dumps(value))


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        value = {"properties": {"a": value}}
    return value


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar("json_object"),
        Grammar("regex", UUID),
        Grammar("regex", r"(([0-9]{1,3}\.){3}[0-9]{1,3},){1,50}"),
        Grammar("regex", r"[]({9999}]{2}\({3}a{19000}"),
        Grammar("regex", "a" * 1000 + "{5}" + "(a|b){10}" * 50),
        Grammar("lark", "start: /[0-9]{4}-[0-9]{2}/"),
        schema(nested(45)),
        schema({"properties": {"multipleOf": {"type": "integer", "multipleOf": 5}}}),
        schema({"allOf": [{"multipleOf": 0.01}, {"multipleOf": 25}]}),
        schema({"properties": {f"p{i}": {"multipleOf": 0.5} for i in range(300)}}),
        schema({"patternProperties": {"^a{9}$": {"pattern": UUID}}, "pattern": 3}),
        schema({"items": [{"$ref": "#"}] * 400}),
    ],
    ids=lambda grammar: f"{grammar.kind} {grammar.text[:30]}",
)
def test_ordinary(grammar: Grammar) -> None:
    """Nothing is said against them."""
    check(grammar)


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar("regex", "a" * (LARGEST + 1)),
        Grammar("regex", "(a{1000}){1000}"),
        Grammar("regex", "(a{1000}){,1000}"),
        Grammar("regex", "(a{1000,}){1000}"),
        Grammar("regex", "((b(a{30})+){30}|c){30}"),
        Grammar("regex", "(?x)(a { 1000 }){ 1000 }"),
        Grammar("regex", "a{20001}"),
        Grammar("regex", "a{99999999999999999999}"),
        Grammar("lark", "start: A{300}\nA: B{300}"),
        Grammar("lark", 'start: %json {"type": "integer"}'),
        Grammar("gbnf", "root ::= a{300}\na ::= b{300}"),
        Grammar("json_schema", "{"),
        Grammar("json_schema", "[" * 100_000),
        schema(nested(60)),
        schema({"multipleOf": 2003}),
        schema({"multipleOf": 1e300}),
        schema({"multipleOf": float("nan")}),
        schema({"multipleOf": 0}),
        schema({"allOf": [{"multipleOf": 997}, {"multipleOf": 991}]}),
        schema({"properties": {f"p{i}": {"multipleOf": 97} for i in range(30)}}),
        schema({"patternProperties": {"(a{1000}){1000}": {}}}),
        schema({"items": [{"$ref": "#"}] * 501}),
        schema({"properties": {"x": {"x-guidance": {}}}}),
    ],
    ids=lambda grammar: f"{grammar.kind} {grammar.text[:30]}",
)
def test_too_much(grammar: Grammar) -> None:
    """Refused as the caller's mistake, with the field's name."""
    with pytest.raises(EdgeError) as refusal:
        check(grammar)
    assert refusal.value.param == "response_format"
    assert refusal.value.callers_fault
    assert len(refusal.value.message) < 400


def test_compiled_once() -> None:
    """What was compiled is used again, whoever asks, and the oldest is forgotten."""
    grammars = Grammars(FakeBackend().vocabulary)
    compiled: list[str] = []
    compile_one = grammars._compile

    def spy(grammar: Grammar, tools: None) -> Any:
        compiled.append(grammar.text)
        return compile_one(grammar, tools)

    grammars._compile = spy  # type: ignore[method-assign]
    for number in (0, 0, *range(MOST_COMPILED), 0, MOST_COMPILED, 0, 1):
        grammars.constraint(Grammar("regex", f"a{number}"))
    assert compiled == [f"a{number}" for number in (*range(MOST_COMPILED + 1), 1)]
    with pytest.raises(InvalidRequest):
        grammars.constraint(Grammar("regex", "("))


def test_states_are_apart() -> None:
    """Two answers of one grammar go their own ways, and threads may ask at once."""
    grammars = Grammars(FakeBackend().vocabulary)
    first, second = (grammars.constraint(Grammar("regex", "ax|by")) for _ in range(2))
    first.advance(ord("a"))
    second.advance(ord("b"))
    assert (first.forced(), second.forced()) == ([ord("x")], [ord("y")])
    with pytest.raises(InvalidRequest):
        first.advance(ord("y"))
    made: list[Any] = []
    threads = [
        threading.Thread(target=lambda: made.append(grammars.constraint(Grammar("regex", "abc?"))))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(one) for one in made}) == 8
