"""Where a night is scored changes nothing of it: three engines, two kinds of roots, two heads."""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from typing_extensions import override

from batch_assets.digest import Digest
from batch_assets.engines.engine import Engine, EngineSettings
from batch_assets.engines.local_engine import LocalEngine
from batch_assets.engines.ray_engine import RayEngine
from batch_assets.engines.ray_local import local_ray
from batch_assets.engines.spark_engine import SparkEngine
from batch_assets.models.card import Card
from batch_assets.models.runtimes.runtime import Runtime
from batch_assets.models.runtimes.torch_runtime import PT2
from batch_assets.nightly.freeze import freeze
from batch_assets.nightly.judge import judge
from batch_assets.nightly.publish import publish
from batch_assets.nightly.score import score
from batch_assets.scoring.heads.value import Value
from batch_assets_tests.servers.s3_gateway import S3Gateway
from batch_assets_tests.small import DAY, Small, rows

pytestmark = [pytest.mark.process, pytest.mark.long]

_NUMBER = itertools.count()


class Valued(Small):
    """A pipeline whose model gives a number."""

    @override
    def card(self, model: bytes, runtime: Runtime = PT2, **outputs: object) -> Card:
        return super().card(model, runtime).model_copy(update={"head": Value(decile_edges=tuple(n / 5 - 1 for n in range(9)))})


HEADS = {"binary": (Small, {}), "value": (Valued, {"answers": {"kind": "value"}})}


@dataclass(frozen=True)
class Night:
    """What must be the same of all nights of one head."""

    run_id: str
    values: Digest
    published: Digest


@pytest.fixture(scope="module")
def engines(shared_bucket: str, s3_gateway: S3Gateway) -> Iterator[dict[str, Engine]]:
    with ExitStack() as stack:
        stack.enter_context(local_ray(num_cpus=2))
        # a Java that an earlier session of this process has left has the environment of then
        conf = {f"spark.executorEnv.{name}": value for name, value in s3_gateway.environment.items()}
        spark = stack.enter_context(closing(SparkEngine(EngineSettings(kind="spark", workers=2, conf=conf))))
        spark.connect()
        yield {"local": LocalEngine(2), "ray": RayEngine(), "spark": spark}


@pytest.fixture(scope="module")
def expected() -> dict[str, Night]:
    """The first night of each head, which its others must be."""
    return {}


@pytest.mark.parametrize("engine", ["local", "ray", "spark"])
@pytest.mark.parametrize("root", ["local", "s3"])
@pytest.mark.parametrize("head", list(HEADS))
def test_the_values_are_the_same_wherever_they_are_computed_and_kept(
    engine: str,
    root: str,
    head: str,
    engines: dict[str, Engine],
    shared_bucket: str,
    expected: dict[str, Night],
    tmp_path: Path,
    model_bytes: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BATCH_ASSETS_CACHE", str(tmp_path / "copies"))
    made, settings = HEADS[head]
    place = f"{shared_bucket}/night-{next(_NUMBER)}" if root == "s3" else ""
    small = made(tmp_path, rows(2_000), model_bytes, root=place, **settings)
    freeze(small.config, small.storage, DAY, small.progress)
    scored = score(small.opened(DAY), engines[engine], small.progress)
    judge(scored.night, scored.manifest)
    night = Night(scored.manifest.run_id, scored.manifest.values, publish(scored.night, small.progress).release.values)
    assert night == expected.setdefault(head, night)
