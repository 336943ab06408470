"""The tree of errors in the docstring is the one in the code, and what is raised on purpose is of it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import batch_assets
from batch_assets import errors
from batch_assets.errors import BatchAssetsError

SOURCES = {path: ast.parse(path.read_text()) for path in sorted(Path(batch_assets.__path__[0]).rglob("*.py"))}
KNOWN = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, BaseException)]


def tree() -> Iterator[tuple[str, str]]:
    """Each class in the docstring and its parent, from top to bottom."""
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if found := re.fullmatch(r"((?:│   |    |├── |└── )*)([A-Z]\w+)(?: {2,}\S.*)?", line):
            depth = len(found[1]) // 4
            above[depth:] = [found[2]]
            yield found[2], above[depth - 1] if depth else "Exception"


def called(tree: ast.AST) -> Iterator[str]:
    """What is called, by its last name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func).rpartition(".")[2]


def raised(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            yield ast.unparse(node.exc.func if isinstance(node.exc, ast.Call) else node.exc).rpartition(".")[2]


def caught(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is not None:
            types = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            yield from (ast.unparse(one) for one in types)


def defined() -> Iterator[tuple[Path, ast.ClassDef]]:
    """Every class of the project that is an exception by its parents' names."""
    names = {"Exception", "BaseException", *(one.__name__ for one in KNOWN)}
    for path, source in SOURCES.items():
        for node in ast.walk(source):
            if isinstance(node, ast.ClassDef) and any(
                (name := ast.unparse(base).rpartition(".")[2]) in names or name.endswith(("Error", "Exception"))
                for base in node.bases
            ):
                yield path, node


def test_the_docstring_names_every_class_with_its_parent_in_the_order_of_the_file() -> None:
    assert list(tree()) == [(one.__name__, *(base.__name__ for base in one.__bases__)) for one in KNOWN]


def test_every_class_is_of_the_tree() -> None:
    assert all(issubclass(one, BatchAssetsError) for one in KNOWN)


def test_no_other_file_defines_an_error_but_for_its_own_use() -> None:
    """A signal from one function of a file to another is private, and caught there."""
    for path, node in defined():
        if path != Path(errors.__file__):
            assert node.name.startswith("_"), f"{path} defines {node.name}: it belongs into errors.py"
            assert node.name in caught(SOURCES[path]), f"{path} raises {node.name}, and does not catch it"


def test_what_is_raised_is_of_the_tree() -> None:
    ours = {node.name for _, node in defined()}
    known = {one.__name__ for one in KNOWN}
    for path, source in SOURCES.items():
        for name in raised(source):
            assert name in known or name not in ours or name.startswith("_"), f"{path} raises {name}, which is not in errors.py"


def test_no_class_is_unused() -> None:
    made = {
        name for path, source in SOURCES.items() if path != Path(errors.__file__) for name in (*called(source), *raised(source))
    }
    parents = {base.__name__ for one in KNOWN for base in one.__bases__}
    assert [one.__name__ for one in KNOWN if one.__name__ not in made | parents] == []


def test_each_says_in_one_sentence_what_it_is() -> None:
    for one in KNOWN:
        assert one.__doc__, one
        assert one.__doc__.endswith("."), one
