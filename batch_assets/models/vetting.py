"""What a model file may hold, looked at before torch sees it: reading one must not run anything that it brings along.

Torch's readers unpickle, evaluate expressions, and fall back to older layouts that unpickle more. So a file is taken only if
all of it is known: one folder in the archive, no name twice, no entry of another kind, no pickle that names anything foreign,
no expression but arithmetic.
"""

import ast
import io
import json
import pickletools
import re
import zipfile
from collections.abc import Iterator
from typing import Any

from batch_assets.errors import UnsafeModel

_LOADABLE = re.compile(
    r"__torch__(\.\S+)? \S+|torch\.jit\._pickle \w+|torch\._utils _rebuild_tensor_v2|torch \w+Storage|collections OrderedDict"
)
"""What a TorchScript file's pickles may name: classes whose code is in the file, tensors and containers."""

_EFFECTS = re.compile(rb"\b(save|from_file)\b")
"""The operators by which a TorchScript program can write or map a file."""

_PT2_ENTRY = re.compile(
    r"models/model\.json|data/(weights|constants)/[A-Za-z0-9_.]+|data/sample_inputs/model\.pt|archive_format|archive_version"
    r"|byteorder|\.data/(version|serialization_id)"
)
"""The entries of an exported program: anything else is of another layout, or is code."""

_PT2_NEEDED = {"archive_format", "archive_version", "models/model.json"}
"""Without these torch reads the file as one of an earlier layout, whose tensors are pickles."""

_FUNCTIONS = {
    "Symbol",
    "Integer",
    "Rational",
    "Add",
    "Mul",
    "Pow",
    "Mod",
    "PythonMod",
    "FloorDiv",
    "CleanDiv",
    "CeilDiv",
    "Max",
    "Min",
}
"""What an expression of a size may call; sympy, which evaluates them as Python, would call anything."""

_ARITHMETIC = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.Call, ast.Name, ast.Load, ast.Constant),
    ast.keyword,
)


def require_safe_pt2(data: bytes, path: str) -> None:
    """Refuse a `.pt2` file that torch.export would unpickle, evaluate or load code from. Raises UnsafeModel."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = _entries(archive)
            strange = [name for name in entries if not _PT2_ENTRY.fullmatch(name)]
            configs = [json.loads(archive.read(entry)) for name, entry in entries.items() if name.endswith("_config.json")]
            pickled = [payload for config in configs for payload in config["config"].values() if payload["use_pickle"]]
            program = json.loads(archive.read(entries["models/model.json"]))
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnsafeModel(f"{path} is not a .pt2 file that batch-assets can vouch for: {error}.") from error
    samples = [name for name, entry in entries.items() if "sample_inputs" in name and entry.file_size]
    if strange:
        raise UnsafeModel(f"{path} holds {strange[0]}, which a program of torch.export does not: it may not be loaded.")
    if pickled or samples or not entries.keys() >= _PT2_NEEDED:
        raise UnsafeModel(f"{path} holds pickled objects; export it with batch_assets.models.predictor.export_model.")
    for expression in _expressions(program):
        if not _is_arithmetic(expression):
            raise UnsafeModel(f"{path} holds the expression {expression[:80]!r}: it may not be loaded.")


def require_safe_script(data: bytes, name: str) -> None:
    """Refuse a TorchScript file whose pickles name anything foreign or whose code may write a file. Raises UnsafeModel."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = {file: archive.read(entry) for file, entry in _entries(archive).items()}
        named = [one for file, content in files.items() if file.endswith((".pkl", "debug_pkl")) for one in _globals(content)]
    except (zipfile.BadZipFile, ValueError, IndexError) as error:
        raise UnsafeModel(f"{name} is not a TorchScript file that batch-assets can vouch for: {error}.") from error
    foreign = [one for one in named if not _LOADABLE.fullmatch(one)]
    if foreign:
        raise UnsafeModel(f"{name} holds a pickle that names {foreign[0]}: it may not be loaded.")
    effects = [found for file, content in files.items() if file.endswith(".py") and (found := _EFFECTS.search(content))]
    if effects:
        raise UnsafeModel(f"{name} holds code that calls {effects[0][0].decode()}: it may not be loaded.")


def _globals(pickled: bytes) -> list[str]:
    """What a pickle would import, as `module name`; one that computes names is refused by naming its operation."""
    found = []
    for operation, argument, _ in pickletools.genops(pickled):
        if operation.name == "GLOBAL":
            found.append(str(argument))
        elif operation.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
            found.append(operation.name)
    return found


def _entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The entries by their names within the archive's one folder. Raises ValueError: several folders, or a name twice."""
    names = archive.namelist()
    if len({name.partition("/")[0] for name in names}) != 1 or len(set(names)) != len(names):
        raise ValueError("it has several folders, or an entry twice")
    return {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}


def _expressions(value: Any) -> Iterator[str]:
    """Every expression of a size in a program."""
    if isinstance(value, dict):
        for name, one in value.items():
            if name == "expr_str":
                yield str(one)
            else:
                yield from _expressions(one)
    elif isinstance(value, list):
        for one in value:
            yield from _expressions(one)


def _is_arithmetic(expression: str) -> bool:
    """Whether an expression does nothing but compute: names, numbers, and functions that are known."""
    try:
        nodes = list(ast.walk(ast.parse(expression, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    calls = [node.func for node in nodes if isinstance(node, ast.Call)]
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)]
    return (
        all(isinstance(node, _ARITHMETIC) for node in nodes)
        and all(isinstance(function, ast.Name) and function.id in _FUNCTIONS for function in calls)
        and all(isinstance(text, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text) for text in texts)
    )
