"""What a file is that was given as a model and is none, so that the refusal can say what to do instead.

Files are known by their first bytes or, archives, by the names of their entries; nothing is read beyond that.
"""

import io
import re
import zipfile

from batch_assets.models.runtimes.runtime import RUNTIMES, FileKind, Runtime

EXPORT = "export the torch.nn.Module itself with batch_assets.models.runtimes.pytorch.export.export_model"
WEIGHTS = f"load it into its torch.nn.Module and {EXPORT}, or keep the weights as safetensors with a module"
_REBUILD = f"convert it to ONNX (runtime: {{kind: onnx}}), or write it as a torch.nn.Module and {EXPORT}"

_FOREIGN = (
    FileKind("a Keras model", _REBUILD, entry=r"model\.weights\.h5"),
    FileKind("a zipped SavedModel of TensorFlow", _REBUILD, entry=r"saved_model\.pb"),
    FileKind("an archive of NumPy arrays", WEIGHTS, entry=r"\w+\.npy"),
    FileKind(
        "a zipped folder of MLflow", "give the model file in it, or let the pipeline follow MLflow's alias", entry=r"MLmodel"
    ),
    FileKind("an empty file", "export it again", begins=rb"\Z"),
    FileKind(
        "the pointer that git keeps instead of a large file", "fetch it with git lfs pull", begins=rb"version https://git-lfs"
    ),
    FileKind("a pickle, as joblib and scikit-learn write them, which may not be loaded", _REBUILD, begins=rb"\x80[\x02-\x05]"),
    FileKind(
        "a compressed file", _REBUILD, begins=rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|x[\x01\x5e\x9c\xda]|\x04\x22\x4d\x18"
    ),
    FileKind("an XGBoost model", _REBUILD, begins=rb'\s*\{\s*"learner"|\{L[\s\S]{0,8}?\x07learner|binf'),
    FileKind("a CatBoost model", _REBUILD, begins=rb"CBM1"),
    FileKind("an HDF5 file, as Keras writes them", _REBUILD, begins=rb"\x89HDF\r\n\x1a\n"),
    FileKind("a SavedModel of TensorFlow", _REBUILD, begins=rb"\x08\x01\x12"),
    FileKind("a TensorFlow Lite model", _REBUILD, begins=rb"[\s\S]{4}TFL3"),
    FileKind("an ExecuTorch program", EXPORT, begins=rb"[\s\S]{4}ET1\d"),
    FileKind("a GGUF file", _REBUILD, begins=rb"GGUF"),
    FileKind("a Parquet file", "give the model file", begins=rb"PAR1"),
    FileKind("a NumPy array", WEIGHTS, begins=rb"\x93NUMPY"),
    FileKind("XML or HTML", _REBUILD, begins=rb"\s*<(\?xml|PMML|!DOCTYPE|html)"),
    FileKind("JSON", _REBUILD, begins=rb"\s*[\[{]"),
    FileKind("a zip archive that was cut", "copy it again", begins=rb"PK\x03\x04"),
)
"""Files that no runtime of ours knows; the first that fits is meant."""


def recognized(data: bytes) -> FileKind | None:
    """What a file is, or None if nothing is known of it."""
    known = [*(one for kind in RUNTIMES.built_in for one in RUNTIMES.adapter(kind).files), *_FOREIGN]
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, LookupError, NotImplementedError, EOFError):
        start = data[:256]
        return next((one for one in known if one.begins is not None and re.match(one.begins, start)), None)
    for one in known:
        if one.entry is not None and any(re.match(f"([^/]+/)?{one.entry}", name) for name in names):
            return one
    return FileKind(f"a zip archive with {names[0][:80]!r} in it" if names else "an empty zip archive", EXPORT)


def refusal(data: bytes, name: str, runtime: Runtime, reason: str = "") -> str:
    """The sentence about a file that is not what its card's runtime reads; `reason` is how that showed."""
    found = recognized(data)
    if found is not None and found.model_file != runtime.model_file:
        return f"{name} is {found.noun}, not {runtime.noun}: {found.advice}."
    return f"{name} is not {runtime.noun}, or a damaged one ({in_short(reason) or 'it lacks what one holds'}): export it again."


def in_short(text: str) -> str:
    """A message of somebody else's, for use within a sentence."""
    return " ".join(text.split()).rstrip(".")[:200]
