"""What can be plugged in: kinds of our own, kinds of others, and what is said where one is missing."""

import sys
from importlib.metadata import EntryPoint
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError

from batch_assets import ports
from batch_assets.errors import MissingExtra, NoSuchKind
from batch_assets.ports import Adapter, Port, extra


class Lamp(Adapter):
    """Any lamp."""

    def shine(self) -> str:
        """What it does."""
        raise NotImplementedError


class Torch(Lamp):
    """Ours."""

    kind: Literal["torch"] = "torch"
    watts: tuple[int, ...] = Field((3,), description="How bright.")

    def shine(self) -> str:
        return "*" * sum(self.watts)


class Candle(Lamp):
    """Somebody else's."""

    kind: Literal["candle"] = "candle"

    def shine(self) -> str:
        return "~"


class NoLamp(Adapter):
    """An adapter of another port."""

    kind: Literal["stone"] = "stone"


LAMPS: Port[Lamp] = Port("lamp", "batch_assets_tests.lamps", {"torch": f"{__name__}:Torch"})


class Room(BaseModel):
    """What has a lamp."""

    lamp: Annotated[Lamp, LAMPS]


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """The entry points of the group, as if packages brought them."""
    points: list[EntryPoint] = []
    monkeypatch.setattr(ports, "entry_points", lambda group: [one for one in points if one.group == group])
    return points


def _point(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, LAMPS.group)


class TestKinds:
    def test_settings_become_the_adapter_of_their_kind(self) -> None:
        room = Room.model_validate({"lamp": {"kind": "torch", "watts": [1, 2]}})
        assert isinstance(room.lamp, Torch)
        assert room.lamp.shine() == "***"

    def test_an_adapter_can_be_given_as_it_is(self) -> None:
        lamp = Torch()
        assert Room(lamp=lamp).lamp is lamp

    def test_what_was_said_is_dumped_and_read_back(self) -> None:
        room = Room.model_validate_json('{"lamp": {"kind": "torch", "watts": [4]}}')
        assert Room.model_validate_json(room.model_dump_json()) == room
        assert room.model_dump() == {"lamp": {"kind": "torch", "watts": (4,)}}
        bare = Room.model_validate({"lamp": {"kind": "torch"}})
        assert bare.model_dump(exclude_unset=True) == {"lamp": {"kind": "torch"}}

    def test_a_wrong_setting_is_told_with_its_place(self) -> None:
        with pytest.raises(ValidationError) as raised:
            Room.model_validate({"lamp": {"kind": "torch", "volts": 3}})
        (error,) = raised.value.errors()
        assert error["loc"] == ("lamp", "volts")

    @pytest.mark.parametrize("said", [{}, {"kind": 3}, "torch", None])
    def test_without_a_kind_it_says_which_there_are(self, said: object) -> None:
        with pytest.raises(ValidationError, match="say the kind of lamp: torch"):
            Room.model_validate({"lamp": said})

    def test_a_kind_that_nobody_has_is_told_with_those_that_there_are(self) -> None:
        with pytest.raises(ValidationError, match="There is no lamp of the kind 'sun'; there is torch"):
            Room.model_validate({"lamp": {"kind": "sun"}})

    def test_the_schema_names_every_setting_of_ours_and_leaves_room_for_others(self) -> None:
        ours, other = Room.model_json_schema()["properties"]["lamp"]["anyOf"]
        described = Room.model_json_schema()["$defs"]["Torch"] if "$ref" in ours else ours
        assert described["properties"]["watts"]["description"] == "How bright."
        assert "kind" in ours["required"]
        assert other["properties"]["kind"]["not"] == {"enum": ["torch"]}


class TestOthers:
    def test_an_entry_point_adds_a_kind(self, others: list[EntryPoint]) -> None:
        others.append(_point("candle", f"{__name__}:Candle"))
        assert LAMPS.kinds() == ["torch", "candle"]
        assert Room.model_validate({"lamp": {"kind": "candle"}}).lamp.shine() == "~"

    def test_it_is_not_imported_before_somebody_names_it(self, others: list[EntryPoint]) -> None:
        others.append(_point("broken", "batch_assets_tests.no_such_module:Lamp"))
        assert isinstance(Room.model_validate({"lamp": {"kind": "torch"}}).lamp, Torch)
        with pytest.raises(ValidationError, match=r"cannot be imported.*no_such_module"):
            Room.model_validate({"lamp": {"kind": "broken"}})

    def test_ours_cannot_be_replaced(self, others: list[EntryPoint]) -> None:
        others.append(_point("torch", f"{__name__}:Candle"))
        assert LAMPS.kinds() == ["torch"]
        assert LAMPS.adapter("torch") is Torch

    def test_two_of_one_kind_are_refused(self, others: list[EntryPoint]) -> None:
        others.extend([_point("candle", f"{__name__}:Candle"), _point("candle", "elsewhere:Candle")])
        with pytest.raises(NoSuchKind, match=r"Several packages bring a lamp of the kind candle: .*elsewhere:Candle; keep one"):
            LAMPS.adapter("candle")

    @pytest.mark.parametrize(
        ("name", "said"),
        [("NoLamp", "the lamp odd is no Lamp"), ("LAMPS", "is no batch_assets.ports.Adapter"), ("Gone", "has no attribute")],
    )
    def test_what_is_no_adapter_of_the_port_is_refused(self, others: list[EntryPoint], name: str, said: str) -> None:
        others.append(_point("odd", f"{__name__}:{name}"))
        with pytest.raises(ValidationError, match=said):
            Room.model_validate({"lamp": {"kind": "odd"}})


class TestExtras:
    def test_a_library_that_is_there_is_given(self) -> None:
        assert extra("sys", "torch", "this") is sys

    def test_one_that_is_not_is_told_with_what_brings_it(self) -> None:
        with pytest.raises(MissingExtra, match=r"this needs no_such_library, .*: pip install 'batch-assets\[lamps\]'"):
            extra("no_such_library.part", "lamps", "this")
