"""What the OpenAPI document permits is answered as it says, and what it does not is refused as it says."""

from collections.abc import Callable

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from batch_assets.service.app import service
from batch_assets_tests.service.asking import options
from batch_assets_tests.small import Small, rows

OPERATIONS = 5

pytestmark = pytest.mark.night


def test_the_service_does_what_its_document_says(make_small: Callable[..., Small]) -> None:
    small = make_small(rows(200), serve={"realtime": {}})
    small.registry.approve("small", "realtime", "v1", why="test", by="the test")
    small.night()
    schema = schemathesis.openapi.from_asgi("/openapi.json", service(options(small, names=("testserver",))))
    operations = [one.ok() for one in schema.get_all_operations()]
    assert len(operations) == OPERATIONS
    for operation in operations:
        takes_something = "{" in operation.path or operation.method == "post"
        for mode in schemathesis.GenerationMode if takes_something else [schemathesis.GenerationMode.POSITIVE]:

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
            def asked(case: schemathesis.Case) -> None:
                case.call_and_validate()

            asked()
