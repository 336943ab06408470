"""An exported day is an offline source of Feast's, and what it materializes from there is what we answer."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from batch_assets.serving.reader import Reader
from batch_assets_tests.conftest import PROJECT, require
from batch_assets_tests.readers.programs import Feast
from batch_assets_tests.small import DAY, Small, rows

pytestmark = pytest.mark.process

ASK = """
import json
from feast import FeatureStore

rows = [{"user": user} for user in (1, 2, 300, 301)]
print(json.dumps(FeatureStore(".").get_online_features(["churn:probability", "churn:label"], rows).to_dict()))
"""


@pytest.mark.long
def test_feast_materializes_a_day(make_small: Callable[..., Small], tmp_path: Path) -> None:
    require(Feast)
    small = make_small(rows(300), export={"shards": 4})
    published = small.night(DAY)
    folder = tmp_path / "feast"
    shutil.copytree(PROJECT / "docs" / "examples" / "readers" / "feast", folder)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "FEAST_USAGE": "False",
        "EXPORT": str(small.storage.local_path(f"small/exports/{published.release.name}")),
    }

    def run(program: str, *arguments: str) -> str:
        command = [str(Feast.environment / "bin" / program), *arguments]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("feast", "apply")
    run("feast", "materialize", f"{DAY}T00:00:00", "2024-03-11T00:00:00")
    found = json.loads(run("python", "-c", ASK).splitlines()[-1])
    answers = Reader.open("small", small.storage).get_many([1, 2, 300, 301])
    assert answers[3] is None
    for name in ("probability", "label"):
        assert found[name] == [answer and answer.record[name] for answer in answers]
