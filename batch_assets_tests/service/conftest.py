"""What several tests of the service ask."""

import pytest

from batch_assets_tests.small import Small, rows


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, model_bytes: bytes) -> Small:
    """A night that tests ask about and leave as it is."""
    small = Small(tmp_path_factory.mktemp("published"), rows(2_000), model_bytes)
    small.night()
    return small
