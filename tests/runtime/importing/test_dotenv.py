"""The parser of `.env` files: what Compose reads, line by line, and nothing that is run."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from gateway_plugins.runtime.importing.dotenv import MAX_BYTES, Reader, Setting, read_dotenv
from hypothesis import given
from hypothesis import strategies as st

from gateway import ConfigError


def values(text: str) -> dict[str, str]:
    reader = Reader(text)
    assert reader.problems == []
    return {name: setting.value for name, setting in reader.settings.items()}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A=b", "b"),
        ("A=b\n", "b"),
        ("export A=b", "b"),
        ("\t export\t A = b c \t", "b c"),
        ("A: b", "b"),
        ("A=", ""),
        ("A= # only a comment", ""),
        ("A=b # comment", "b"),
        ("A=b#c", "b#c"),
        ("A=#b", "#b"),
        ("A=b=c", "b=c"),
        ("A='b # c' # comment", "b # c"),
        ('A="b # c"#comment', "b # c"),
        ("A='it\\'s \\n $A ${A}'", "it's \\n $A ${A}"),
        (r'A="a\tb\n\"c\" \\ \$A \d"', 'a\tb\n"c" \\ $A \\d'),
        ("A='two\nlines'", "two\nlines"),
        ('A="{\\"a\\": 1}"', '{"a": 1}'),
        ("A=--x '{\"a\": 1}'", "--x '{\"a\": 1}'"),
        ("A=5$ and $5 and a$", "5$ and $5 and a$"),
        ("A=a$$b", "a$b"),
        ("B=x\nA=$B/${B}y", "x/xy"),
        ("B=\nA=${B:-d e}|${C:-}", "d e|"),
        ('B=x\nA="${B}"', "x"),
        ("A=1\nA=2", "2"),
        ("A=`id`", "`id`"),
        ("A=ünïcode ☃ 🦙", "ünïcode ☃ 🦙"),
    ],
)
def test_dotenv_reads_values_as_compose_does(text: str, value: str) -> None:
    assert values(text)["A"] == value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("SECRET", "expected NAME=value"),
        ("1A=SECRET", "expected NAME=value"),
        ("A='SECRET", "A: the quote is not closed"),
        ('A="SECRET\\"', "A: the quote is not closed"),
        ("A='SECRET' SECRET", "A: expected a comment or nothing after the closing quote"),
        ("A=$(SECRET)", "A: expected ${NAME} or ${NAME:-default}, and no commands; "),
        ("A=${SECRET:?no}", "A: expected ${NAME} or ${NAME:-default}, and no commands; "),
        ("A=SECRET$SECRET", "A: it refers to a variable that no line above sets; "),
        ('A="${SECRET}"', "A: it refers to a variable that no line above sets; "),
    ],
)
def test_dotenv_names_bad_lines_without_values(text: str, problem: str) -> None:
    reader = Reader(f"# first\n{text}\n")
    assert reader.problems[0].startswith(f"2: {problem}")
    assert "SECRET" not in "".join(reader.problems)
    assert reader.settings == {}


def test_dotenv_goes_on_after_a_bad_line() -> None:
    reader = Reader("A\nB=1\nC=${D}\n\nB='2\n3'\nE=4")
    assert [line.partition(":")[0] for line in reader.problems] == ["1", "3"]
    assert reader.settings == {"B": Setting("2\n3", 5, 2), "E": Setting("4", 7)}
    assert "2" not in repr(reader.settings["B"]).replace("line=5", "")


def test_dotenv_runs_nothing(tmp_path: Path) -> None:
    made = tmp_path / "made"
    with pytest.raises(ConfigError):
        read_dotenv(written(tmp_path, f"A=$(touch {made})\nB=`touch {made}`\n".encode()))
    assert not made.exists()


def test_dotenv_does_not_read_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("B", "SECRET")
    assert values("A=${B:-d}") == {"A": "d"}


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_dotenv_reads_files_of_windows(tmp_path: Path, ending: bytes) -> None:
    lines = [b"\xef\xbb\xbfA=b", b"B='c", b"d'", b"C=e"]
    found = read_dotenv(written(tmp_path, ending.join([*lines, b""])))
    assert {name: one.value for name, one in found.items()} == {"A": "b", "B": "c\nd", "C": "e"}


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"A=\xff", "expected text in UTF-8"),
        (b"A=a\0b", "it has a NUL byte"),
        (b"#" * (MAX_BYTES + 1), f"it has more than {MAX_BYTES} bytes"),
    ],
)
def test_dotenv_refuses_what_is_no_text(tmp_path: Path, data: bytes, problem: str) -> None:
    path = written(tmp_path, data)
    assert problems(path) == [f"{path}: cannot be read: {problem}"]


def test_dotenv_names_a_missing_file_a_folder_and_a_pipe(tmp_path: Path) -> None:
    missing, pipe = tmp_path / "missing", tmp_path / "pipe"
    os.mkfifo(pipe)
    assert problems(missing) == [f"{missing}: cannot be read: No such file or directory"]
    assert problems(tmp_path) == [f"{tmp_path}: cannot be read: it is not a file"]
    assert problems(pipe) == [f"{pipe}: cannot be read: it is not a file"]


def test_dotenv_names_a_bounded_number_of_lines(tmp_path: Path) -> None:
    path = written(tmp_path, b"A\n" * 1_000)
    found = problems(path)
    assert len(found) == 100
    assert found[99] == f"{path}:100: expected NAME=value"


def written(folder: Path, data: bytes) -> Path:
    path = folder / ".env"
    path.write_bytes(data)
    return path


def problems(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_dotenv(path)
    return list(caught.value.problems)


names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
texts = st.text(st.characters(exclude_characters="\r\0", exclude_categories=["Cs"]))


def double_quoted(value: str) -> str:
    for plain, escaped in (("\\", r"\\"), ('"', r"\""), ("$", r"\$"), ("\n", r"\n")):
        value = value.replace(plain, escaped)
    return f'"{value}"'


def single_quoted(value: str) -> str:
    """Quote a text; single quotes cannot hold a backslash before one of them, or at the end."""
    if "\\" in value:
        return double_quoted(value)
    return "'" + value.replace("'", r"\'") + "'"


class Written(NamedTuple):
    name: str
    value: str
    quoted: Callable[[str], str]
    before: str
    after: str

    @property
    def line(self) -> str:
        return f"{self.before}{self.name}={self.quoted(self.value)}{self.after}"


settings = st.builds(
    Written,
    names,
    texts,
    st.sampled_from([double_quoted, single_quoted]),
    st.sampled_from(["", " ", "export ", "# comment\n"]),
    st.sampled_from(["", " ", " # comment", "#'\"", "\n", "\n\n# comment $( '\""]),
)


@given(st.lists(settings))
def test_dotenv_reads_back_every_quoted_value(lines: list[Written]) -> None:
    text = "\n".join(one.line for one in lines)
    assert values(text) == {one.name: one.value for one in lines}


@given(st.text(st.sampled_from("AB=$\\'\" {}:-#\n(")) | st.text())
def test_dotenv_ends_on_any_text_and_counts_its_lines(text: str) -> None:
    reader = Reader(text)
    lines = text.count("\n") + 1
    assert all(1 <= setting.line <= lines for setting in reader.settings.values())
    assert all(1 <= int(one.partition(":")[0]) <= lines for one in reader.problems)
