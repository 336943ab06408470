"""What a model file may hold, looked at before torch sees it: reading one must not run anything that it brings along.

Torch's readers unpickle, evaluate expressions, import modules that a file names, write names into Python source, and fall back
to older layouts that unpickle more. So a file is taken only if all of it is known: one folder in the archive, no name twice, no
entry of another kind, no operator but torch's own, no name that is more than a name, no
expression but arithmetic. And what was looked at is all that torch gets: see `packed`.
"""

import ast
import io
import json
import math
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from batch_assets.errors import UnsafeModel
from batch_assets.models.recognition import in_short, recognized, refusal
from batch_assets.models.runtimes.torch_runtime import PT2, TorchRuntime

Archive = Mapping[str, bytes]
"""The entries of a vetted file by their names within its one folder."""

_PT2_ENTRY = re.compile(
    r"models/model\.json|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)|data/sample_inputs/model\.pt|archive_format|archive_version"
    r"|byteorder|\.data/(version|serialization_id)|extra/.+"
)
"""The entries of an exported program: anything else is of another layout, is unpickled, or is code."""

_PT2_NEEDED = {"archive_format", "archive_version", "byteorder", "models/model.json"}
"""Without these torch reads the file as one of an earlier layout, whose tensors are pickles."""

_LEFT_OUT = ("data/sample_inputs/", "extra/")

_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims)\.\w+\.\w+"
    r"|torch\.ops\.higher_order\.(cond|while_loop|scan|associative_scan|map_impl|wrap_with_set_grad_enabled|wrap_with_autocast)"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|lshift|rshift|getitem)"
    r"|math\.(trunc|ceil|floor|sqrt|pow|log2)|torch\._?sym_\w+"
)
"""What a graph may call: arithmetic on tensors and sizes, branches and loops over graphs of the file itself."""

_WITH_EFFECTS = re.compile(r"torch\.ops\.aten\.(from_file|save|_print|set_data)\..*")
"""Operators that do more than compute."""

_CALLABLES = {"as_operator", "as_custom_obj", "custom_obj", "as_string_to_argument", "token", "as_token"}
"""Arguments by which a graph would pass on something to call."""

_FUNCTIONS = re.compile(
    r"Symbol|Integer|Rational|Float|Add|Mul|Pow|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|Max|Min|ModularIndexing|Where|PowByNatural"
    r"|FloatPow|FloatTrueDiv|IntTrueDiv|CeilToInt|FloorToInt|TruncToInt|TruncToFloat|RoundToInt|ToFloat|Identity|And|Or|Not"
    r"|Equality|Unequality|GreaterThan|LessThan|StrictGreaterThan|StrictLessThan"
)
"""What an expression of a size may call; sympy, which evaluates them as Python, would call anything."""

_ARITHMETIC = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.Call, ast.Name, ast.Load, ast.Constant),
    ast.keyword,
)

_POWERS = {"Pow", "PowByNatural", "FloatPow"}
_LONGEST_EXPRESSION = 10_000
_HIGHEST_POWER = 16

_TEXT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|-?\d+(\.\d*)?(e[-+]?\d{1,3})?", re.ASCII)
"""A text in an expression: the name of a symbol, or a number."""

_IDENTIFIER = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_PATH = re.compile(r"(?!(.*\.)?__)[^\"'\\\x00-\x1f\x7f]+")
"""The path of a tensor in its module; the keys of a ModuleDict may be anything that does not end a text."""

_TREES = {None, "builtins.tuple", "builtins.list", "builtins.dict"}
"""Of which containers a program's inputs and outputs may be; torch imports what others name."""

_INFLATION = 64 << 20
"""By how many bytes a file may grow when it is unpacked: torch compresses no tensors."""

_UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, EOFError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError),
    *(RecursionError, NotImplementedError),
)
"""What reading a damaged file raises."""


def vetted_pt2(data: bytes, name: str) -> Archive:
    """The entries of a `.pt2` file, of which torch.export would unpickle, import or evaluate nothing foreign.

    Example inputs and extra files, which torch.export.save may have kept in it, are left out: nobody needs them, and examples
    are pickles. Raises UnsafeModel.
    """
    try:
        entries = _entries(data)
        strange = [entry for entry in entries if not _PT2_ENTRY.fullmatch(entry)]
        if strange or not entries.keys() >= _PT2_NEEDED:
            raise UnsafeModel(_refusal(data, name, PT2, strange=strange))
        for kind in ("weights", "constants"):
            _require_plain_tensors(entries, kind, name)
        _require_known_program(json.loads(entries["models/model.json"]), name)
    except _UNREADABLE as error:
        raise UnsafeModel(_refusal(data, name, PT2, error)) from error
    kept = {entry: content for entry, content in entries.items() if not entry.startswith(_LEFT_OUT)}
    return {**kept, "data/sample_inputs/model.pt": b""}


def packed(archive: Archive) -> io.BytesIO:
    """The entries as a file again, which is what torch gets.

    It finds its way in a zip otherwise than Python does, and in a file that is made for that it would read other entries than
    those that were looked at.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as target:
        for entry, content in archive.items():
            target.writestr(zipfile.ZipInfo(f"archive/{entry}"), content)
    buffer.seek(0)
    return buffer


def _refusal(data: bytes, name: str, runtime: TorchRuntime, error: Exception | None = None, strange: Sequence[str] = ()) -> str:
    found = recognized(data)
    if strange and (found is None or found.model_file == runtime.model_file):
        return f"{name} holds {in_short(strange[0])}, which a program of torch.export does not: it may not be loaded."
    named = (
        f"{type(error).__name__}: {error}" if isinstance(error, LookupError | TypeError | AttributeError) else str(error or "")
    )
    return refusal(data, name, runtime, named)


def _entries(data: bytes) -> Archive:
    """The entries by their names within the archive's one folder. Raises ValueError, BadZipFile."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries, names = archive.infolist(), archive.namelist()
        if len({name.partition("/")[0] for name in names}) != 1 or len(set(names)) != len(names):
            raise ValueError("it has several folders, or an entry twice")
        if any(".." in name.split("/") or "\\" in name for name in names):
            raise ValueError("an entry's name leaves the archive")
        if sum(entry.file_size for entry in entries) > len(data) + _INFLATION:
            raise ValueError("it unpacks to much more than it is")
        return {entry.filename.partition("/")[2]: archive.read(entry) for entry in entries}


def _require_plain_tensors(archive: Archive, kind: str, name: str) -> None:
    """Refuse tensors that are pickles, or lie in no entry of their kind."""
    for tensor, payload in json.loads(archive[f"data/{kind}/model_{kind}_config.json"])["config"].items():
        if payload["use_pickle"]:
            raise UnsafeModel(
                f"{name} holds pickled objects; export it with batch_assets.models.runtimes.pytorch.export.export_model."
            )
        _require_name(tensor, name, _PATH)
        _ = archive[f"data/{kind}/{payload['path_name']}"]


def _require_known_program(document: Any, name: str) -> None:
    """Refuse a graph that calls, imports or evaluates anything but torch's arithmetic."""
    for key, value in _pairs(document):
        if key == "target":
            if not _OPERATOR.fullmatch(value) or _WITH_EFFECTS.fullmatch(value):
                raise UnsafeModel(
                    f"{name} calls {in_short(value)}, which is none of torch's operators that compute: it may not be loaded; "
                    "rewrite the module without it, or register its weights as safetensors with a module."
                )
        elif key in _CALLABLES:
            raise UnsafeModel(f"{name} holds something to call as an argument ({key}): it may not be loaded.")
        elif key == "expr_str":
            if not _is_arithmetic(value):
                raise UnsafeModel(f"{name} holds the expression {value[:80]!r}: it may not be loaded.")
        elif key in ("in_spec", "out_spec"):
            protocol, tree = json.loads(value)
            if protocol != 1 or not _is_plain_tree(tree):
                raise UnsafeModel(f"{name} has inputs or outputs that are no tuples, lists or dicts: it may not be loaded.")
        elif key in ("name", "as_name", "user_input_name"):
            _require_name(value, name, _IDENTIFIER)
        elif key.endswith("_name"):
            _require_name(value, name, _PATH)
        elif key == "forward_arg_names":
            for one in value or ():
                _require_name(one, name, _IDENTIFIER)


def _require_name(value: str | None, name: str, pattern: re.Pattern[str]) -> None:
    """Refuse a name that would be more than a name in the source that torch writes from a graph, or in the class it makes."""
    if value and not pattern.fullmatch(value):
        raise UnsafeModel(f"{name} holds the name {value[:80]!r}, which is none: it may not be loaded.")


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value in a program, but for notes about its source."""
    if isinstance(value, dict):
        for key, one in value.items():
            if key != "metadata":
                yield key, one
                yield from _pairs(one)
    elif isinstance(value, list):
        for one in value:
            yield from _pairs(one)


def _is_plain_tree(tree: Any) -> bool:
    """Whether a tree of arguments is one of plain containers, whose keys are names."""
    keys = json.loads(tree["context"] or "null") or []
    plain = isinstance(keys, list) and all(isinstance(key, str) and _IDENTIFIER.fullmatch(key) for key in keys)
    return tree["type"] in _TREES and plain and all(_is_plain_tree(one) for one in tree["children_spec"])


def _is_arithmetic(expression: str) -> bool:
    """Whether an expression does nothing but compute, and not for ever: names, numbers, functions and powers that are known."""
    try:
        nodes = list(ast.walk(ast.parse(expression if len(expression) <= _LONGEST_EXPRESSION else "", mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)]
    exponents = [node.right for node in nodes if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow | ast.LShift)]
    exponents += [call.args[-1] for call in calls if ast.unparse(call.func) in _POWERS and call.args]
    return (
        all(isinstance(node, _ARITHMETIC) for node in nodes)
        and all(isinstance(call.func, ast.Name) and _FUNCTIONS.fullmatch(call.func.id) for call in calls)
        and all(isinstance(text, str) and _TEXT.fullmatch(text) for text in texts)
        and sum(map(_largest, exponents)) <= _HIGHEST_POWER
    )


def _largest(exponent: ast.AST) -> float:
    """The largest number in an exponent; infinite if it is computed."""
    nodes = list(ast.walk(exponent))
    numbers = [abs(node.value) for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, int | float)]
    computed = any(isinstance(node, ast.BinOp) or (isinstance(node, ast.Name) and node.id in _POWERS) for node in nodes)
    return math.inf if computed or not numbers else max(numbers)
