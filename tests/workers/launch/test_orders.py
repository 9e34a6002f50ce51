from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagrad_bus.workers.launch.orders import (
    LONGEST_LINE,
    Add,
    BadLine,
    Exited,
    Order,
    Renew,
    Report,
    RestartPolicy,
    Start,
    Stop,
    WorkerOrder,
    encode,
    parse_order,
    parse_report,
)

ORDERS: tuple[type[Any], ...] = typing.get_args(Order)
REPORTS: tuple[type[Any], ...] = typing.get_args(Report)
Parse = Callable[[bytes], Any]

ANY_TEXT = st.text(st.characters(exclude_categories=[]), max_size=8)  # lone surrogates too: bytes of logs become them
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), ANY_TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(ANY_TEXT, inner, max_size=3)),
    max_leaves=6,
)


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Return values that an annotation allows."""
    plain: dict[Any, st.SearchStrategy[Any]] = {
        Any: JSON,
        str: ANY_TEXT,
        bool: st.booleans(),
        int: st.integers(),
        float: st.floats(allow_nan=False, allow_infinity=False),
        types.NoneType: st.none(),
    }
    if hint in plain:
        return plain[hint]
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return st.sampled_from(inner)
    if origin is list:
        return st.lists(values_of(inner[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(ANY_TEXT, values_of(inner[1]), max_size=3)
    if origin in {types.UnionType, typing.Union}:
        return st.one_of([values_of(one) for one in inner])
    assert dataclasses.is_dataclass(hint), hint
    return messages_of(typing.cast(type[Any], hint))


def messages_of(kind: type[Any]) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(kind)
    return st.builds(kind, **{field.name: values_of(hints[field.name]) for field in dataclasses.fields(kind)})


def parser_of(kind: type[Any]) -> Parse:
    return parse_order if kind in ORDERS else parse_report


@pytest.mark.parametrize("kind", [*ORDERS, *REPORTS], ids=lambda kind: kind.op)
@settings(deadline=None, max_examples=12)
@given(data=st.data())
def test_what_is_encoded_is_parsed_again(kind: type[Any], data: st.DataObject) -> None:
    message = data.draw(messages_of(kind))
    line = encode(message)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    found = parser_of(kind)(line)
    assert found == message
    assert type(found) is kind


@pytest.mark.parametrize("kind", [*ORDERS, *REPORTS], ids=lambda kind: kind.op)
@settings(deadline=None, max_examples=6)
@given(data=st.data())
def test_unknown_keys_are_ignored(kind: type[Any], data: st.DataObject) -> None:
    message = data.draw(messages_of(kind))
    known = {field.name for field in dataclasses.fields(kind)} | {"op"}
    more = data.draw(st.dictionaries(ANY_TEXT.filter(lambda key: key not in known), JSON, max_size=3))
    body = json.loads(encode(message)) | more
    assert parser_of(kind)(json.dumps(body).encode()) == message


@pytest.mark.parametrize("kind", [*ORDERS, *REPORTS], ids=lambda kind: kind.op)
@settings(deadline=None, max_examples=10)
@given(data=st.data())
def test_another_value_is_refused_or_of_its_type(kind: type[Any], data: st.DataObject) -> None:
    body = json.loads(encode(data.draw(messages_of(kind))))
    for name in data.draw(st.lists(st.sampled_from(sorted(body)), max_size=2, unique=True)):
        if data.draw(st.booleans()):
            body[name] = data.draw(JSON)
        else:
            del body[name]
    with suppress(BadLine):
        message = parser_of(kind)(json.dumps(body).encode())
        assert parser_of(kind)(encode(message)) == message


@settings(deadline=None, max_examples=50)
@given(st.one_of(st.binary(max_size=60), JSON.map(lambda value: json.dumps(value).encode())))
def test_any_line_is_a_message_or_a_bad_one(line: bytes) -> None:
    for parse in (parse_order, parse_report):
        with suppress(BadLine):
            assert type(parse(line)) in {*ORDERS, *REPORTS}


@pytest.mark.parametrize("parse", [parse_order, parse_report])
@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"Last login: Mon",
        b"[]",
        b'"start"',
        b"{}",
        b'{"op":1}',
        b'{"op":null}',
        b'{"op":["stop"]}',
        b'{"op":"nosuch"}',
        b"\xff\xfe",
        b'{"op":"stop"',
        b'{"op":"stop"} {"op":"stop"}',
        b"[" * 200_000,
        b"1" * 10_000,
        b'{"op":"renew","x":"' + b"a" * LONGEST_LINE + b'"}',
    ],
)
def test_what_is_no_message_is_a_bad_line(parse: Parse, line: bytes) -> None:
    with pytest.raises(BadLine):
        parse(line)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b'{"op":"stop","grace":"1"}', "grace is '1'"),
        (b'{"op":"stop","grace":true}', "grace is 'True'"),
        (b'{"op":"stop","names":"all"}', "names is 'all'"),
        (b'{"op":"stop","names":[1]}', "names is '1'"),
        (b'{"op":"signal","number":1.5}', "number is '1.5'"),
        (b'{"op":"signal","number":false}', "number is 'False'"),
        (b'{"op":"add","workers":[{"name":"a"}]}', "slot"),
        (b'{"op":"add","workers":[{"name":"a","slot":"0"}]}', "slot is '0'"),
        (b'{"op":"start","run":"r","host":"h","cwd":"/"}', "command"),
        (b'{"op":"start","run":"r","host":"h","cwd":"/","command":[],"restart":{"on_failure":"explode"}}', "explode"),
        (b'{"op":"start","run":"r","host":"h","cwd":"/","command":[],"env":{"A":1}}', "env is '1'"),
    ],
)
def test_a_wrong_type_is_named(line: bytes, error: str) -> None:
    with pytest.raises(BadLine, match=error):
        parse_order(line)


def test_orders_are_no_reports() -> None:
    with pytest.raises(BadLine, match="unknown op 'renew'"):
        parse_report(encode(Renew()))


def test_what_is_left_out_has_its_default() -> None:
    found = parse_order(
        b'{"op":"start","run":"r","host":"h","cwd":"/","command":["x"],"workers":[{"name":"h.0","slot":0}]}'
    )
    workers = [WorkerOrder(name="h.0", slot=0)]
    assert found == Start(run="r", host="h", cwd="/", command=["x"], workers=workers, restart=RestartPolicy())
    assert parse_order(b'{"op":"stop","grace":3}') == Stop(grace=3.0)


def test_a_worker_of_an_order_is_written_without_op() -> None:
    worker = WorkerOrder(name="h.1", slot=1, env={"DAGRAD_DEVICE": "cpu"})
    assert json.loads(encode(worker)) == dataclasses.asdict(worker)
    assert parse_order(encode(Add(workers=[worker]))) == Add(workers=[worker])


def test_a_code_and_a_signal_may_be_absent() -> None:
    message = Exited(name="h.0", pid=7, attempt=0, time=1.0, signal=9)
    assert parse_report(encode(message)) == message
    assert message.code is None


@pytest.mark.parametrize("depth", range(900, 1000, 7))
def test_a_deep_value_is_a_bad_line(depth: int) -> None:
    with pytest.raises(BadLine):
        parse_order(b'{"op":"stop","grace":' + b"[" * depth + b"]" * depth + b"}")


@pytest.mark.parametrize("number", [b"1" + b"0" * 400, b"-1" + b"0" * 400, b"NaN", b"Infinity", b"1e999"])
def test_a_number_of_seconds_is_finite(number: bytes) -> None:
    with pytest.raises(BadLine):
        parse_order(b'{"op":"stop","grace":' + number + b"}")
    assert math.isfinite(Stop().grace)
