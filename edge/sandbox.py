"""Jinja for templates that nobody vouches for: those that come with model files, which nobody has
read, and those of the configuration, which are filled with what callers send.

Nothing that a template does may hang its process or fill its memory. Three bounds together see to
that: no single operation makes a large value, lines are traced against a deadline, and the
growth of the process is watched on the way. What prompts have no use for is not there.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.filters import do_indent, do_int, do_join
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

LARGEST = 4_000_000
"""Characters or items that one operation may make; more than any context holds."""

MOST_GROWTH_BYTES = 256 * 2**20
LOOK_SECONDS = 0.01
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
"""4 KiB, but on some ARM machines 16 or 64."""

UndefinedError = jinja2.UndefinedError

FAILURES = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    SyntaxError,
    TimeoutError,
    TypeError,
    ValueError,
)
"""What compiling or rendering may run into."""

FILTERS = (
    "abs attr capitalize count d default dictsort e escape first float format indent int "
    "items join last length list lower map max min reject rejectattr replace reverse safe "
    "select selectattr sort string title tojson trim unique upper wordcount "
)

UNBOUNDED_METHODS = frozenset(
    ["center", "ljust", "rjust", "zfill", "expandtabs", "translate", "encode"]
)


class _Generator(CodeGenerator):
    """Sends `a ~ b` through the environment, which jinja's own code does not."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        self.write("environment.tilde((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class Sandbox(ImmutableSandboxedEnvironment):
    """Compiles and renders; every operation that could make a huge value is measured before."""

    code_generator_class = _Generator
    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            autoescape=False,
            extensions=["jinja2.ext.loopcontrols"],
            finalize=_printable,
        )
        ours = {
            "tojson": _to_json,
            "join": _join,
            "replace": _replace,
            "format": _format,
            "indent": _indent,
            "int": _int,
            "string": lambda value: str(_printable(value)),
        }
        self.filters = {name: ours.get(name) or self.filters[name] for name in FILTERS.split()}
        self.globals = {name: self.globals[name] for name in ("range", "dict", "namespace")}
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = lambda form: datetime.now().strftime(form)

    def names(self, source: str) -> set[str]:
        """What a template wants to be given. Raises one of `FAILURES`."""
        return meta.find_undeclared_variables(self.parse(source)) - self.globals.keys()

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """Joins what a template, a macro or a block has put out."""
        kept: list[str] = []
        size = 0
        for part in parts:
            size += len(part)
            _bound(size)
            kept.append(part)
        return "".join(kept)

    def tilde(self, parts: Iterable[Any]) -> str:
        return self.concat(str(_printable(part)) for part in parts)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            raise jinja2.TemplateError("powers are not available in templates")
        if operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
            _bound(len(left) + len(right))
        elif operator == "*":
            _bound(_product(left, right))
        elif operator == "%" and isinstance(left, str):
            _check_format(left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        text = getattr(function, "__self__", None)
        if isinstance(text, str):
            if function.__name__ == "join":
                args = (list(args[0]),)
                _bound(_weight(args) + len(text) * len(args[0]))
            elif function.__name__ == "replace":
                _bound_replace(text, *args[:2])
        return super().call(context, function, *args, **kwargs)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str) and attr in UNBOUNDED_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def bounded(*args: Any, **kwargs: Any) -> str:
            _check_format(value.__self__, (args, kwargs))
            return wrapped(*args, **kwargs)

        return bounded


class StrictSandbox(Sandbox):
    """For templates that can be corrected: what is not there is an `UndefinedError`."""

    def __init__(self) -> None:
        super().__init__()
        self.undefined = jinja2.StrictUndefined


class Limits:
    """Ends Python code of this thread that runs for too long or takes too much memory.

    seconds: of the processor, for this thread. Time that passes while others have the processor is
    not the template's, and on a busy machine there is much of it.

    Signals reach the main thread only and a thread cannot be killed, so its lines are traced; a
    template is a few hundred lines of generated Python, which costs next to nothing.

    What is raised while a generator is closed is lost, and tracing with it, for the interpreter
    ends both: so nothing is raised then, nor where a generator is entered, which may be for that.
    """

    def __init__(self, seconds: float) -> None:
        self.until = time.thread_time() + seconds
        self.most = _resident_bytes() + MOST_GROWTH_BYTES
        self._next_look = 0.0
        self._before: Any = None
        self._closing: FrameType | None = None

    def __enter__(self) -> None:
        self._before = sys.gettrace()
        sys.settrace(self._trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        if not self._may_raise(frame, event, arg):
            return self._trace
        now = time.thread_time()
        if now > self.until:
            raise TimeoutError("time limit")
        if now > self._next_look:
            self._next_look = now + LOOK_SECONDS
            if _resident_bytes() > self.most:
                raise MemoryError("memory limit")
        return self._trace

    def _may_raise(self, frame: FrameType, event: str, arg: Any) -> bool:
        if self._closing is not None:
            if frame is self._closing and event == "return":
                self._closing = None
            return False
        if event == "exception" and arg[0] is GeneratorExit:
            self._closing = frame
            return False
        return event != "call" or not frame.f_code.co_flags & inspect.CO_GENERATOR


def _resident_bytes() -> int:
    """Of this process; 0 where the kernel does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES
    except OSError:
        return 0


def _bound(size: int) -> None:
    if size > LARGEST:
        raise jinja2.TemplateError("it builds too large a text")


def _weight(value: Any) -> int:
    """Characters that a value takes when it is printed, about; stops counting at `LARGEST`."""
    size, rest = 0, [value]
    while rest and size <= LARGEST:
        item = rest.pop()
        size += 1
        if isinstance(item, str):
            size += len(item)
        elif isinstance(item, int):
            size += item.bit_length() // 3
        elif isinstance(item, dict):
            rest += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple)):
            rest += item
        elif isinstance(item, Namespace):
            raise jinja2.TemplateError("a namespace cannot be printed")
    return size


def _product(left: Any, right: Any) -> int:
    """Size of a product: repeated items; of numbers the work, which is quadratic."""
    for items, count in ((left, right), (right, left)):
        if hasattr(items, "__len__") and isinstance(count, int):
            return len(items) * abs(count)
    bits = [x.bit_length() for x in (left, right) if isinstance(x, int)]
    return sum(bits) ** 2


def _printable(value: Any) -> Any:
    if not isinstance(value, str):
        _bound(_weight(value))
    return value


def _check_format(form: str, values: Any) -> None:
    """Refuse formats with widths of more than three digits, or widths that come from values."""
    if re.search(r"\d{4}|\*|\{[^}]*\{", form):
        raise jinja2.TemplateError("this format is not available in templates")
    _bound(len(form) + (form.count("%") + form.count("{")) * (1000 + _weight(values)))


def _bound_replace(text: str, old: object = "", new: object = "") -> None:
    _bound(len(text) + (text.count(str(old)) * len(str(new))))


def _replace(text: object, old: str, new: str, count: int = -1) -> str:
    text = text if isinstance(text, str) else str(_printable(text))
    _bound_replace(text, old, new)
    return text.replace(str(old), str(new), count)


def _int(value: Any, default: int = 0, base: int = 10) -> int:
    too_long = isinstance(value, str) and len(value) > 100
    return default if too_long else int(do_int(value, default, base))


@jinja2.pass_eval_context
def _join(
    context: Any, value: Iterable[Any], d: str = "", attribute: str | int | None = None
) -> str:
    parts = list(value)
    _bound(_weight(parts) + len(d) * len(parts))
    return str(do_join(context, parts, d, attribute))


def _format(form: str, *args: Any, **kwargs: Any) -> str:
    _check_format(form, (args, kwargs))
    return str(str(form) % (kwargs or args))


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    size = width if isinstance(width, int) else len(width)
    _bound(len(text) + size * (1 + text.count("\n")))
    return str(do_indent(text, width, first, blank))


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    _bound(_weight(value) * (1 + (indent or 0)))
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
