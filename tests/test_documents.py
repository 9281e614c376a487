"""The commands that documents name exist, with the options that they give them."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from bench import cli
from bench.commands import COMMANDS

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SESSIONS = re.findall(r"^@nox\.session.*\ndef (\w+)", (ROOT / "noxfile.py").read_text(encoding="utf-8"), re.MULTILINE)


def text_of(document: Path) -> str:
    """The text without generated parts, which show commands of earlier versions, and with continued lines joined."""
    text = re.sub(
        r"<!-- (\w+): begin -->.*?<!-- \1: end -->", "", document.read_text(encoding="utf-8"), flags=re.DOTALL
    )
    return text.replace("\\\n", " ")


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser of one command."""
    parser = cli._parser([command])
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    found: argparse.ArgumentParser = commands.choices[command]
    return found


def options_of(parser: argparse.ArgumentParser, words: list[str]) -> set[str]:
    """Every option of a command, and of its action where it has several."""
    options = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            chosen = [name for name in action.choices if name in words] or list(action.choices)
            options |= {option for name in chosen for option in action.choices[name]._option_string_actions}
    return options


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_commands_in_a_document_exist(document: Path) -> None:
    for line in re.findall(r"(?:python -m bench|-m bench|dydit-bench) ([a-z-]+[^`\n]*)", text_of(document)):
        words = shlex.split(re.sub(r"[;|&#(].*", "", line.replace("'", "")))
        assert words[0] in COMMANDS, f"{document.name}: {line}"
        given = {word for word in words if word.startswith("--")}
        assert given <= options_of(parser_of(words[0]), words) | {"--help"}, f"{document.name}: {line}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_sessions_in_a_document_exist(document: Path) -> None:
    assert set(re.findall(r"nox -s (\w+)", text_of(document))) <= set(SESSIONS)


def test_every_command_stands_in_the_table_of_commands() -> None:
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`python -m bench ([a-z-]+)", text)) | {"reproduce"}
    assert named == set(COMMANDS)


def test_every_session_stands_in_a_document() -> None:
    text = "".join(text_of(document) for document in DOCUMENTS)
    assert [session for session in SESSIONS if f"nox -s {session}" not in text] == ["environment"]
