"""A file that is no model of ours is called what it is, with what to do instead, in one sentence."""

import gzip
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
import torch
from safetensors.torch import save

from batch_assets.errors import UnsafeModel
from batch_assets.models.runtimes.pytorch.export import export_model
from batch_assets.models.runtimes.pytorch.formats import safetensors_of
from batch_assets.models.runtimes.torch_runtime import PT2
from batch_assets_tests.models.runtimes.pytorch.test_formats import IN_THIS_REPOSITORY, rewritten
from batch_assets_tests.net import seeded
from batch_assets_tests.small import Small, small_model


def saved(what: object, **options: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(what, buffer, **options)
    return buffer.getvalue()


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return buffer.getvalue()


def arrays() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, weights=np.ones(3))
    return buffer.getvalue()


ONNX = b"\x08\x0a\x12\x07pytorch\x1a\x052.4.0:\xd8\x02"  # ir_version 10, producer, its version, graph
FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "AOTInductor": (
        lambda: zipped("m/data/aotinductor/model/x.so", "m/archive_format"),
        "an AOTInductor package.*export_model",
    ),
    "an older pt2": (lambda: zipped("m/serialized_exported_program.json", "m/version"), "of an earlier torch.*export it again"),
    "torch.save of weights": (
        lambda: saved(seeded().state_dict()),
        "a file of torch.save.*torch.nn.Module.*safetensors with a module",
    ),
    "torch.save of long ago": (
        lambda: saved(seeded().state_dict(), _use_new_zipfile_serialization=False),
        "a file of torch.save, which is a pickle",
    ),
    "TorchScript": (lambda: zipped("m/code/x.py", "m/data.pkl"), "a TorchScript file.*export the torch.nn.Module itself"),
    "safetensors": (
        lambda: save(seeded().state_dict()),
        "a safetensors file, weights without code.*format: safetensors, module:",
    ),
    "pickle": (lambda: pickle.dumps({"a": 1}), "a pickle, as joblib and scikit-learn write them.*torch.nn.Module"),
    "joblib": (lambda: gzip.compress(pickle.dumps(1)), "a compressed file"),
    "ONNX": (lambda: ONNX, r"an ONNX model.*say so in the card \(runtime: {kind: onnx}\)"),
    "LightGBM": (
        lambda: b"tree\nversion=v4\nnum_class=1\n",
        r"a LightGBM model.*say so in the card \(runtime: {kind: lightgbm}\)",
    ),
    "XGBoost JSON": (lambda: json.dumps({"learner": {"attributes": {}}}).encode(), "an XGBoost model"),
    "XGBoost UBJ": (lambda: b"{L\x00\x00\x00\x00\x00\x00\x00\x07learner{", "an XGBoost model"),
    "CatBoost": (lambda: b"CBM1\x00\x00", "a CatBoost model"),
    "Keras": (lambda: zipped("metadata.json", "config.json", "model.weights.h5"), "a Keras model"),
    "Keras HDF5": (lambda: b"\x89HDF\r\n\x1a\n\x00", "an HDF5 file, as Keras"),
    "SavedModel": (lambda: b"\x08\x01\x12\xa0\x01\x0a", "a SavedModel of TensorFlow"),
    "SavedModel, zipped": (lambda: zipped("model/saved_model.pb", "model/variables/x"), "a zipped SavedModel"),
    "TensorFlow Lite": (lambda: struct.pack("<I", 28) + b"TFL3", "a TensorFlow Lite model"),
    "arrays": (arrays, "an archive of NumPy arrays"),
    "zip": (lambda: zipped("readme.txt"), "a zip archive with 'readme.txt' in it"),
    "a zip without anything": (lambda: zipped(), "an empty zip archive"),
    "git-lfs": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "pointer that git keeps.*git lfs pull"),
    "nothing": (lambda: b"", "an empty file"),
    "half of one": (lambda: small_model()[:600], "a zip archive that was cut"),
    "text": (lambda: b"hello", "is not a .pt2 file of torch.export, or a damaged one"),
}


@pytest.mark.parametrize("kind", FILES)
def test_what_a_file_is_and_what_to_do(small: Small, kind: str) -> None:
    make, expected = FILES[kind]
    with pytest.raises(UnsafeModel, match=f"small v7 is .*{expected.removeprefix('is ')}") as caught:
        small.register("v7", make())
    said = str(caught.value)
    assert said.endswith(".")
    assert "\n" not in said


def test_a_good_file_under_another_format(small: Small) -> None:
    with pytest.raises(UnsafeModel, match=r"small v7 is a \.pt2 file of torch\.export, not a safetensors file: .*format: pt2"):
        small.register("v7", small_model(), safetensors_of(IN_THIS_REPOSITORY))


def test_a_program_that_torch_saved_with_its_example_is_taken(small: Small) -> None:
    """The example is a pickle, and is left out."""
    net = seeded()
    program = torch.export.export(
        net, (torch.zeros(128, 3),), dynamic_shapes=({0: torch.export.Dim("rows", min=1)},), strict=True
    )
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"note.txt": "ours"})
    assert small.register("v2", buffer.getvalue()).version == "v2"
    compressed = io.BytesIO()
    with zipfile.ZipFile(compressed, "w", zipfile.ZIP_DEFLATED) as archive:
        source = zipfile.ZipFile(io.BytesIO(rewritten(export_model(net, 3), lambda _, data: data)))
        for name in source.namelist():
            archive.writestr(name, source.read(name))
    assert small.register("v3", compressed.getvalue(), PT2).version == "v3"
