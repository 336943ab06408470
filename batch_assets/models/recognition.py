"""What a file is that was given as a model and is none, so that the refusal can say what to do instead.

Files are known by their first bytes or, archives, by the names of their entries; nothing is read beyond that.
"""

import io
import re
import zipfile
from dataclasses import dataclass

_EXPORT = "export the torch.nn.Module itself with batch_assets.models.predictor.export_model"
_WEIGHTS = f"load it into its torch.nn.Module and {_EXPORT}, or keep the weights as safetensors with a module"
_REBUILD = f"only programs of torch can score: write or convert the model as a torch.nn.Module and {_EXPORT}"


@dataclass(frozen=True)
class Recognized:
    """A kind of file, as a noun; what to do; and whether it is one that a card can name as its `format`."""

    kind: str
    advice: str
    format: str = ""


_ENTRIES = (
    (r"data/aotinductor/", Recognized("an AOTInductor package, compiled code that may not be loaded", _EXPORT)),
    (
        r"serialized_exported_program\.json",
        Recognized("a .pt2 file of an earlier torch, which holds pickles", "export it again"),
    ),
    (r"models/model\.json", Recognized("a .pt2 file of torch.export", "say so in the card (format: pt2)", "pt2")),
    (
        r"code/",
        Recognized("a TorchScript file", f"say so in the card (format: torchscript) or, better, {_EXPORT}", "torchscript"),
    ),
    (r"data\.pkl", Recognized("a file of torch.save, which is a pickle", _WEIGHTS)),
    (r"model\.weights\.h5", Recognized("a Keras model", _REBUILD)),
    (r"saved_model\.pb", Recognized("a zipped SavedModel of TensorFlow", _REBUILD)),
    (r"\w+\.npy", Recognized("an archive of NumPy arrays", _WEIGHTS)),
    (
        r"MLmodel",
        Recognized("a zipped folder of MLflow", "give the model file in it, or let the pipeline follow MLflow's alias"),
    ),
)
"""Archives by an entry that no other has, with or without the archive's one folder before it."""

_STARTS = (
    (
        rb"[\s\S]{3}\0{5}\{",
        Recognized(
            "a safetensors file, weights without code",
            "name the code that they are of in the card (format: safetensors, module: package.file:factory)",
            "safetensors",
        ),
    ),
    (rb"\Z", Recognized("an empty file", "export it again")),
    (
        rb"version https://git-lfs",
        Recognized("the pointer that git keeps instead of a large file", "fetch it with git lfs pull"),
    ),
    (rb"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19\.", Recognized("a file of torch.save, which is a pickle", _WEIGHTS)),
    (rb"\x80[\x02-\x05]", Recognized("a pickle, as joblib and scikit-learn write them, which may not be loaded", _REBUILD)),
    (
        rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|x[\x01\x5e\x9c\xda]|\x04\x22\x4d\x18",
        Recognized("a compressed file", _REBUILD),
    ),
    (rb"tree\s+version=", Recognized("a LightGBM model", _REBUILD)),
    (rb'\s*\{\s*"learner"|\{L[\s\S]{0,8}?\x07learner|binf', Recognized("an XGBoost model", _REBUILD)),
    (rb"CBM1", Recognized("a CatBoost model", _REBUILD)),
    (rb"\x89HDF\r\n\x1a\n", Recognized("an HDF5 file, as Keras writes them", _REBUILD)),
    (rb"\x08\x01\x12", Recognized("a SavedModel of TensorFlow", _REBUILD)),
    (rb"\x08[\x02-\x20](\x12|\x1a|\x22|\x2a|\x32|\x3a|\x42)", Recognized("an ONNX model", _REBUILD)),
    (rb"[\s\S]{4}TFL3", Recognized("a TensorFlow Lite model", _REBUILD)),
    (rb"[\s\S]{4}ET1\d", Recognized("an ExecuTorch program", _EXPORT)),
    (rb"GGUF", Recognized("a GGUF file", _REBUILD)),
    (rb"PAR1", Recognized("a Parquet file", "give the model file")),
    (rb"\x93NUMPY", Recognized("a NumPy array", _WEIGHTS)),
    (rb"\s*<(\?xml|PMML|!DOCTYPE|html)", Recognized("XML or HTML", _REBUILD)),
    (rb"\s*[\[{]", Recognized("JSON", _REBUILD)),
    (rb"PK\x03\x04", Recognized("a zip archive that was cut", "copy it again")),
)
"""Other files by how they begin."""


def recognized(data: bytes) -> Recognized | None:
    """What a file is, or None if nothing is known of it."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, LookupError, NotImplementedError, EOFError):
        start = data[:256]
        return next((found for pattern, found in _STARTS if re.match(pattern, start)), None)
    for pattern, found in _ENTRIES:
        if any(re.match(f"([^/]+/)?{pattern}", name) for name in names):
            return found
    return Recognized(f"a zip archive with {names[0][:80]!r} in it" if names else "an empty zip archive", _EXPORT)
