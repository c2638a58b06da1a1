"""Arguments as models send them: valid, wrapped and broken."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.tools.arguments import load_object, parse_arguments, unwrapped

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
json_objects = st.dictionaries(st.text(max_size=8), json_values, max_size=5)
clean_objects = st.dictionaries(
    st.text("abc_xyz", min_size=1, max_size=8),
    st.text(max_size=30)
    | st.integers(-1000, 1000)
    | st.booleans()
    | st.none()
    | st.lists(st.text(max_size=5), max_size=3),
    max_size=5,
)


@given(st.text())
def test_never_raises_and_always_gives_an_object(raw: str) -> None:
    text, problem = parse_arguments(raw)
    assert isinstance(json.loads(text), dict)
    assert problem is None or text == "{}"


@given(json_objects, st.sampled_from([None, 2]), st.booleans())
def test_a_valid_object_is_kept_byte_for_byte(value: dict, indent: int | None, ascii_only: bool) -> None:
    raw = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    assert parse_arguments(raw) == (raw, None)


@given(clean_objects)
def test_python_reprs_are_read(value: dict) -> None:
    text, problem = parse_arguments(repr(value))
    assert problem is None
    assert json.loads(text) == value


@given(clean_objects, st.integers(1, 2))
def test_double_encoding_is_undone(value: dict, times: int) -> None:
    raw = json.dumps(value)
    for _ in range(times):
        raw = json.dumps(raw)
    assert json.loads(parse_arguments(raw)[0]) == value


@given(clean_objects.filter(bool), st.data())
def test_a_cut_text_is_a_problem_and_no_guess(value: dict, data: st.DataObject) -> None:
    raw = json.dumps(value)
    cut = data.draw(st.integers(1, len(raw) - 1))
    text, problem = parse_arguments(raw[:cut])
    assert text == "{}"
    assert problem is not None and "\n" not in problem


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("", {}),
        ("  \n", {}),
        ('{"command": "ls",}', {"command": "ls"}),
        ('{"steps": [1, 2,],}', {"steps": [1, 2]}),
        ('```json\n{"path": "a"}\n```', {"path": "a"}),
        ('{"command": "echo a\necho b"}', {"command": "echo a\necho b"}),
        ("{'a': True, 'b': None, 'c': 'it\\'s'}", {"a": True, "b": None, "c": "it's"}),
        (r'{"pattern": "\d+\."}', {"pattern": r"\d+\."}),
        ('{"a": 1}}', {"a": 1}),
        ('[{"a": 1}]', {"a": 1}),
        ('\ufeff{"a": 1}', {"a": 1}),
        (r'{"a": "\ud83d\ude00",}', {"a": "😀"}),
    ],
)
def test_repairs(raw: str, expected: dict) -> None:
    text, problem = parse_arguments(raw)
    assert problem is None
    assert json.loads(text) == expected


@pytest.mark.parametrize(
    "raw",
    [
        '{"a": 1} {"b": 2}',
        '{"command": "echo "hi""}',
        "null",
        "[1, 2]",
        '"text"',
        '{"a": NaN}',
        "[" * 100_000,
        '{"a":' * 5_000,
        '{"a": ' + "9" * 5_000 + "}",
        '{"a": 1e999,}',
        "{a: 1}",
        "just talk",
    ],
)
def test_problems(raw: str) -> None:
    text, problem = parse_arguments(raw)
    assert text == "{}"
    assert problem


def test_wrappings_come_off_unless_the_key_is_a_parameter() -> None:
    assert unwrapped({"arguments": {"path": "a"}}, frozenset({"path"})) == {"path": "a"}
    assert unwrapped({"parameters": '{"path": "a"}'}, frozenset({"path"})) == {"path": "a"}
    assert unwrapped({"input": {"arguments": {"x": 1}}}, frozenset({"x"})) == {"x": 1}
    assert unwrapped({"input": {"x": 1}}, frozenset({"input"})) == {"input": {"x": 1}}
    assert unwrapped({"arguments": "ls"}, frozenset({"command"})) == {"arguments": "ls"}


def test_lone_surrogates_do_not_come_through() -> None:
    assert load_object('{"a": ["\\ud800"]}') == {"a": ["�"]}
