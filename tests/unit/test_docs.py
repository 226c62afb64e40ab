"""What the documents name exists: every test by its name, every file by its path."""

import ast
import re
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
DOCUMENTS = sorted([*TOP.glob("*.md"), *TOP.glob("docs/**/*.md")])
TEST = re.compile(r"\b(tests/[\w/]+\.py)::(\w+)")
FILE = re.compile(r"`((?:ixy_vfio|helper|tests|scripts|docs)/[\w./-]+)`")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(TOP)))
def test_what_a_document_names_exists(document: Path) -> None:
    text = document.read_text()
    for path, name in TEST.findall(text):
        defined = {
            node.name for node in ast.walk(ast.parse((TOP / path).read_text())) if isinstance(node, ast.FunctionDef)
        }
        assert name in defined, f"{path}::{name}"
    for path in FILE.findall(text):
        assert (TOP / path).exists(), path
