from collections.abc import Iterator

import pytest

from batch_assets.engines.ray_local import local_ray


@pytest.fixture(scope="module")
def shared_ray() -> Iterator[None]:
    """One local Ray for many tests, connected before an engine is asked."""
    with local_ray(num_cpus=2):
        yield
