from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def shared_ray() -> Iterator[None]:
    """One local Ray for many tests, connected before an engine is asked."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
