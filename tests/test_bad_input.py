"""Documents that are no YAML, no mapping, too big or no scenario: refused in one line that points at the fault."""

from __future__ import annotations

import pytest
from bad_input import HERE, SCENARIO, marked, refused, run, write

COMMANDS = {
    "scenario": lambda path: ("plan", path),
    "comparison": lambda path: ("compare", path, "-o", "growth"),
    "dashboard": lambda path: ("dashboard", path, "--json"),
    "hardware": lambda path: ("hardware", "show", path),
    "hardware check": lambda path: ("hardware", "check", path),
    "model": lambda path: ("model", "show", path),
    "calibration": lambda path: ("plan", "cross-encoder-rerank", "-H", "t4", "-c", path),
}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CAPACITY_PATH", raising=False)


# Text that is no document, whatever it was meant to be

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{below}'] * 10)}]\n"
    for below, name in zip("abcdefgh", "bcdefghi", strict=True)
)  # fmt: skip
TEXTS = {
    "empty": ("", "expected a mapping of `key: value` lines"),
    "only a comment": ("# nothing here\n", "expected a mapping"),
    "a list": ("- a\n- b\n", "expected a mapping"),
    "a number": ("42\n", "expected a mapping"),
    "null": ("null\n", "expected a mapping"),
    "two documents": ("a: 1\n⌖---\nb: 2\n", "another document"),
    "a colon too many": ("a: b⌖: c\n", "mapping values are not allowed"),
    "an open bracket": ("a: [1, 2\n⌖", "did not find expected ',' or ']'"),
    "an open quote": ("a: 'x\n⌖", "unexpected end of stream"),
    "indented by a tab": ("a:\n⌖\tb: 1\n", "a tab stands where YAML wants blanks"),
    "a control character": ("a: 1\nb: x⌖\x07y\n", "control characters are not allowed"),
    "a duplicate key": ("a: 1\nb: 2\n⌖a: 3\n", "duplicate key 'a', first on line 1"),
    "a merge key": ("⌖<<: {a: 1}\n", "a key must be plain text"),
    "a list as key": ("? ⌖[a]\n: 1\n", "a key must be plain text"),
    "an alias of nothing": ("a: ⌖*b\n", "undefined alias"),
    "a list that holds itself": ("a: ⌖&a [*a]\n", "expands to more than 40 levels through aliases"),
    "a mapping that holds itself": ("a: ⌖&a {b: *a}\n", "expands to more than 40 levels through aliases"),
    "a bomb of aliases": (BOMB, "values through aliases"),
    "100,000 brackets": ("a: " + "[" * 39 + HERE + "[" * 100_000, "nested deeper than 40 levels"),
    "100,000 braces": ("{a: " * 40 + HERE + "{a: " * 100_000, "nested deeper than 40 levels"),
    "100,000 keys": ("\n".join(f"k{number}: 1" for number in range(100_000)), "holds more than 200,000 values"),
    "5 MB in one scalar": ("a: " + "9" * 5_000_000, "is larger than 4,000,000 bytes"),
    "Latin-1": ("id: caf\xe9".encode("latin-1"), "is not UTF-8 text (byte 7)"),
    "UTF-16": ("id: shop".encode("utf-16"), "is not UTF-8 text (byte 0)"),
    "binary": (bytes(range(256)) * 20, "is not UTF-8 text (byte 128)"),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize(("text", "said"), TEXTS.values(), ids=TEXTS)
def test_a_text_that_is_no_document_is_refused(text, said, command):
    place = ""
    if isinstance(text, str) and HERE in text:
        text, place = marked(text)
    write("broken.yaml", text)
    message = refused(*command("./broken.yaml"), says=said)
    assert message.startswith(f"error: broken.yaml:{place}")


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_file_that_cannot_be_read_is_refused(command):
    write("folder.yaml/file", "")
    write("plain", "")
    refused(*command("./missing.yaml"), says="missing.yaml: no such file")
    refused(*command("./folder.yaml"), says="folder.yaml: is a folder; name a file in it")
    refused(*command("plain/below.yaml"), says="plain/below.yaml: cannot be read: Not a directory")
    refused(*command(f"./{'x' * 300}.yaml"), says="cannot be read: File name too long")
    refused(*command("./a\0b.yaml"), says="cannot be read: embedded null byte")


def test_a_byte_order_mark_is_accepted():
    assert run("plan", write("shop.yaml", b"\xef\xbb\xbf" + SCENARIO.encode())).code == 0


def test_json_is_yaml_and_points_at_its_faults():
    write("shop.json", '{\n\t"id": "shop",\n\t"title": 3\n}\n')
    refused("plan", "shop.json", says="shop.json:3:11: title: input should be text (got 3)", others=5)


def test_a_document_full_of_faults_is_refused_with_the_first_ones():
    write("shop.yaml", "".join(f"k{number}: 1\n" for number in range(40_000)))
    message = refused("plan", "./shop.yaml", says="and 39,967 more problems", others=40)
    assert "shop.yaml:33:1: unknown key 'k32'" in message
