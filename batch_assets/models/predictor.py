"""How a version is loaded for a night, and how a model file is run outside of one; it is tried in `trial`."""

import ctypes
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from batch_assets.errors import ModelChanged, ModelMisfit, StorageError
from batch_assets.models.runtimes.runtime import Runtime
from batch_assets.models.runtimes.torch_runtime import PT2
from batch_assets.scoring.forward import Logits, Predictor
from batch_assets.scoring.heads.head import Head
from batch_assets.scoring.inputs import Array
from batch_assets.scoring.settings import DEFAULT_BATCH_ROWS, Device, Precision
from batch_assets.storage import Storage

Matrix = npt.NDArray[np.generic]


@dataclass(frozen=True)
class PredictorLoader:
    """Loads one model file, after its bytes were compared with the sha256 that was approved; picklable."""

    storage: Storage
    path: str
    sha256: str
    runtime: Runtime

    def __call__(self, device: Device = "cpu", precision: Precision = "float32") -> Predictor:
        """Read, verify and load.

        Raises:
            ModelChanged: other bytes than were approved.
            UnsafeModel, ModelMisfit, ConfigError, MissingExtra: see `Runtime.load`.
        """
        data = self._copied()
        if hashlib.sha256(data).hexdigest() != self.sha256:  # the copy may be damaged
            data = self.storage.read(self.path)
        found = hashlib.sha256(data).hexdigest()
        if found != self.sha256:
            raise ModelChanged(f"{self.path} has sha256 {found}, approved was {self.sha256}: the file was changed.")
        settle_heap()
        return self.runtime.load(data, self.path, device, precision)

    def _copied(self) -> bytes:
        """The file; of a bucket it comes to a machine once, as a copy for all its processes, if there is a place for one."""
        try:
            return self.storage.local_path(self.path).read_bytes()
        except (StorageError, OSError):
            return self.storage.read(self.path)


def predict_scores(
    model: bytes,
    features: Matrix | Sequence[Matrix],
    head: Head,
    *,
    batch_rows: int = DEFAULT_BATCH_ROWS,
    runtime: Runtime = PT2,
    floats: Literal["float32", "float64"] = "float32",
) -> npt.NDArray[np.float32]:
    """Scores of shape (rows,), computed in the very way in which a night does: probabilities, or numbers of a regression.

    Args:
        model: the model file.
        features: shape (rows, columns); of a model with several inputs one such array for each, in its order. Lists of any
            length are padded.
        head: what the model gives, as its card will say.
        batch_rows: rows per forward pass.
        runtime: what the model file is.
        floats: as what the model takes numbers that are not whole, as the inputs of its contract say.

    Raises:
        ModelMisfit: the outputs cannot be what the head says of them.
    """
    matrices = [features] if isinstance(features, np.ndarray) else features
    given = [one.astype(floats if one.dtype.kind == "f" else "int64", copy=False) for one in matrices]
    values = outputs_of(model, given, batch_rows=batch_rows, runtime=runtime)
    if head.impossible(values).any():
        raise ModelMisfit(f"The model does not give what is said of it: {head.misfit(values)}.")
    return head.score_of(values)


def outputs_of(
    model: bytes, features: Sequence[Array], *, batch_rows: int = DEFAULT_BATCH_ROWS, runtime: Runtime = PT2
) -> Logits:
    """What a model gives for its inputs, each of shape (rows, width) and of the type that it takes; shape (values, rows).

    Raises ModelMisfit.
    """
    arrays = [one[:, None] if one.ndim == 1 else one for one in features]
    counts = {len(one) for one in arrays}
    if len(counts) != 1 or counts == {0}:
        raise ModelMisfit(f"The features must have equally many rows for each input, and some: not {sorted(counts)}.")
    (rows,) = counts
    padded = -(-rows // batch_rows) * batch_rows
    staged = [np.concatenate([one, np.repeat(one[:1], padded - rows, axis=0)]).T.copy() for one in arrays]
    batches = (tuple(one[:, start : start + batch_rows] for one in staged) for start in range(0, padded, batch_rows))
    try:
        found = list(runtime.load(model, "the model").forward(batches))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        shapes = ", ".join(f"{one.shape} {one.dtype}" for one in arrays)
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ModelMisfit(f"The model does not take these features ({shapes}): {reason}.") from error
    return np.concatenate(found, axis=1)[:, :rows]


def settle_heap() -> None:
    """Keep freed memory in the process: else every large temporary is mapped, faulted in and unmapped again.

    glibc's mallopt: M_MMAP_THRESHOLD 32 MB, M_TRIM_THRESHOLD off, M_TOP_PAD 64 MB; other C libraries have no such call.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((-3, 32 << 20), (-1, (1 << 31) - 1), (-2, 64 << 20)):
            mallopt(parameter, value)
