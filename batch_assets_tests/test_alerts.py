"""Alerts, told to a real HTTP server."""

import logging
import re
import socket
import threading
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from batch_assets.alerts import LIMIT, Alert, Receiver, send, send_all
from batch_assets.errors import AlertFailed
from batch_assets_tests.listener import Listener, dripping

ALERT = Alert("blocked", "churn", "2026-03-28", "churn 2026-03-28 is blocked", "the check drift: PSI 0.31 > 0.25 & <rising>")
_RECEIVERS = TypeAdapter(tuple[Receiver, ...])


def receivers(*raw: dict[str, Any]) -> Any:
    return _RECEIVERS.validate_python(raw)


def dead_url() -> str:
    """An address on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/services/top-secret"


def no_pause(seconds: float) -> None:
    pass


class TestWhatIsTold:
    def test_a_webhook_gets_the_alert_as_json(self, listener: Listener) -> None:
        send(receivers({"kind": "webhook", "url": listener.url}), ALERT)
        assert listener.heard == [
            {
                "id": ALERT.id,
                "kind": "blocked",
                "pipeline": "churn",
                "partition": "2026-03-28",
                "title": "churn 2026-03-28 is blocked",
                "message": "the check drift: PSI 0.31 > 0.25 & <rising>",
            }
        ]

    def test_slack_gets_text_and_blocks(self, listener: Listener) -> None:
        send(receivers({"kind": "slack", "url": listener.url}), ALERT)
        escaped = "the check drift: PSI 0.31 &gt; 0.25 &amp; &lt;rising&gt;"
        assert listener.heard == [
            {
                "text": f"churn 2026-03-28 is blocked: {escaped}",
                "blocks": [
                    {"type": "header", "text": {"type": "plain_text", "text": "churn 2026-03-28 is blocked"}},
                    {"type": "section", "text": {"type": "mrkdwn", "text": escaped}},
                ],
            }
        ]

    def test_slack_gets_no_more_than_it_takes(self, listener: Listener) -> None:
        send(receivers({"kind": "slack", "url": listener.url}), Alert("failed", "churn", None, "t" * 500, "m" * 9_000))
        header, section = listener.heard[0]["blocks"]
        assert (len(header["text"]["text"]), len(section["text"]["text"])) == (150, 3_000)

    def test_the_log_gets_a_line(self, caplog: pytest.LogCaptureFixture) -> None:
        send(receivers({"kind": "log"}), ALERT)
        assert caplog.record_tuples == [("batch_assets.alerts", logging.ERROR, f"{ALERT.title}: {ALERT.message}")]


class TestWhenItFails:
    @pytest.mark.parametrize("statuses", [[503], [500, 503], [429]])
    def test_it_is_tried_again(self, listener: Listener, statuses: list[int]) -> None:
        listener.statuses, pauses = list(statuses), []
        send(receivers({"kind": "webhook", "url": listener.url}), ALERT, pauses.append)
        assert len(listener.heard) == len(statuses) + 1
        assert pauses == sorted(pauses)
        assert len(pauses) == len(statuses)

    @pytest.mark.parametrize("host", ["hooks..example.com", "h" * 70 + ".example.com"])
    def test_a_name_that_no_host_can_have_keeps_nobody_from_being_told(self, listener: Listener, host: str) -> None:
        both = receivers(
            {"kind": "webhook", "url": f"https://{host}/top-secret"}, {"kind": "webhook", "url": f"{listener.url}/other"}
        )
        (fault,) = send_all(both, [ALERT], no_pause)
        assert fault == f"The webhook receiver on {host} was not told {ALERT.title!r}: no host can have this name."
        assert len(listener.heard) == 1

    def test_one_that_is_silent_is_not_waited_for_again(self, listener: Listener) -> None:
        """Dagster repeats a tick that takes too long, and then the others would be told again."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url, pauses = f"http://127.0.0.1:{silent.getsockname()[1]}/", list[float]()
            both = receivers({"kind": "webhook", "url": url}, {"kind": "webhook", "url": listener.url})
            with pytest.raises(AlertFailed, match="it did not answer within 1 s"):
                send(both, ALERT, pauses.append, limit=1)
        assert pauses == []
        assert len(listener.heard) == 1

    def test_three_times(self, listener: Listener) -> None:
        listener.statuses = [503] * 9
        with pytest.raises(AlertFailed, match=r"The slack receiver on 127\.0\.0\.1 .*: it answered HTTP 503\."):
            send(receivers({"kind": "slack", "url": listener.url}), ALERT, no_pause)
        assert len(listener.heard) == 3

    @pytest.mark.parametrize("status", [400, 404, 302, 307])
    def test_but_not_if_it_would_be_refused_again(self, listener: Listener, status: int) -> None:
        """A redirect is refused too: followed, it would be a GET without the alert."""
        listener.statuses = [status]
        with pytest.raises(AlertFailed, match=f"HTTP {status}"):
            send(receivers({"kind": "webhook", "url": listener.url}), ALERT, no_pause)
        assert len(listener.heard) == 1

    def test_the_others_are_told_all_the_same(self, listener: Listener, caplog: pytest.LogCaptureFixture) -> None:
        told = receivers(
            {"kind": "slack", "url": dead_url()}, {"kind": "webhook", "url": dead_url()}, {"kind": "log"},
            {"kind": "webhook", "url": listener.url},
        )  # fmt: skip
        with pytest.raises(AlertFailed, match=r"slack receiver on .* webhook receiver on "):
            send(told, ALERT, no_pause)
        assert len(listener.heard) == 1
        assert len(caplog.records) == 1

    def test_a_dead_host_is_named_without_the_secret(self) -> None:
        with pytest.raises(AlertFailed, match=r"on 127\.0\.0\.1 .* cannot be reached \(ConnectionRefusedError\)") as raised:
            send(receivers({"kind": "webhook", "url": dead_url()}), ALERT, no_pause)
        error: BaseException | None = raised.value
        while error is not None:
            assert "secret" not in repr(error)
            error = error.__cause__ or error.__context__


class TestNobodyIsWaitedForLongerThanTheLimit:
    """Each of these servers would go on for minutes: if one were waited for, these tests would not end."""

    def test_which_is_ten_seconds(self) -> None:
        assert LIMIT == 10

    @pytest.mark.parametrize(
        ("scheme", "first"),
        [
            ("http", b"HTTP/1.1 "),
            ("http", b"HTTP/1.1 200 OK\r\nX: "),
            ("http", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 "),
            ("https", b""),
            ("https", b"\x16\x03\x03\x40\x00"),  # the head of a long handshake message
        ],
    )
    def test_one_that_drips(self, listener: Listener, scheme: str, first: bytes) -> None:
        with dripping(first) as port:
            slow = {"kind": "slack", "url": f"{scheme}://127.0.0.1:{port}/top-secret"}
            with pytest.raises(AlertFailed, match=r"^The slack receiver on 127\.0\.0\.1 was not told .*[a-zA-Z)]\.$"):
                send(receivers(slow, {"kind": "webhook", "url": listener.url}), ALERT, limit=1)
        assert len(listener.heard) == 1, "whoever is quick is told"

    def test_what_comes_after_the_headers_is_nobodys_concern(self) -> None:
        with dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n") as port:
            send(receivers({"kind": "webhook", "url": f"http://127.0.0.1:{port}/"}), ALERT)

    def test_one_whose_name_is_being_looked_up(self, monkeypatch: pytest.MonkeyPatch, listener: Listener) -> None:
        """The system's resolver takes no limit and cannot be interrupted."""
        answered, resolve = threading.Event(), socket.getaddrinfo

        def slowly(host: str, *args: Any, **settings: Any) -> Any:
            if host == "nowhere.invalid":
                answered.wait(300)
            return resolve(host, *args, **settings)

        monkeypatch.setattr(socket, "getaddrinfo", slowly)
        monkeypatch.setenv("no_proxy", "*")
        both = receivers({"kind": "webhook", "url": "http://nowhere.invalid/"}, {"kind": "webhook", "url": listener.url})
        with pytest.raises(AlertFailed, match=r"on nowhere\.invalid was not told .*: it did not answer within 1 s\.$"):
            send(both, ALERT, limit=1)
        answered.set()
        assert len(listener.heard) == 1

    def test_all_tries_together(self, listener: Listener) -> None:
        """The third would come after a pause for which there is no time any more."""
        listener.statuses = [503] * 9
        with pytest.raises(AlertFailed, match="HTTP 503"):
            send(receivers({"kind": "webhook", "url": listener.url}), ALERT, limit=1.9)
        assert len(listener.heard) == 2

    def test_many_alerts_together(self, listener: Listener) -> None:
        many = [Alert("missed", "churn", f"2026-03-{day:02}", "missed", "…") for day in range(1, 11)]
        with dripping() as port:
            slow = {"kind": "webhook", "url": f"http://127.0.0.1:{port}/"}
            faults = send_all(receivers(slow, {"kind": "webhook", "url": listener.url}), many, limit=3)
        assert [len(re.findall(r"it did not answer within [\d.]+ s", fault)) for fault in faults] == [1] * 10, faults
        assert {one["partition"] for one in listener.heard} == {one.partition for one in many}

    def test_who_waits_for_less_sees_that_it_is_not_told_yet(self) -> None:
        with dripping() as port, pytest.raises(AlertFailed, match=r"it did not answer within 0\.2 s"):
            send(receivers({"kind": "webhook", "url": f"http://127.0.0.1:{port}/"}), ALERT, limit=5.0, wait=0.2)


class TestARepeatIsKnown:
    def test_by_its_id(self, listener: Listener) -> None:
        """Also when what the receivers can be told of it has changed since."""
        again = Alert(ALERT.kind, ALERT.pipeline, ALERT.partition, ALERT.title, "in other words")
        for alert in (ALERT, again):
            send(receivers({"kind": "webhook", "url": listener.url}, {"kind": "slack", "url": listener.url}), alert)
        assert len(listener.keys) == 4
        assert set(listener.keys) == {ALERT.id}

    def test_by_every_try(self, listener: Listener) -> None:
        listener.statuses = [503, 503]
        send(receivers({"kind": "webhook", "url": listener.url}), ALERT, no_pause)
        assert listener.keys == [ALERT.id] * 3

    @pytest.mark.parametrize(
        "other",
        [
            Alert("failed", "churn", "2026-03-28", ALERT.title, ALERT.message),
            Alert("blocked", "other", "2026-03-28", ALERT.title, ALERT.message),
            Alert("blocked", "churn", "2026-03-29", ALERT.title, ALERT.message),
            Alert("blocked", "churn", None, ALERT.title, ALERT.message),
            Alert("blocked", "churn", "2026-03-28", ALERT.title, ALERT.message, "another run"),
        ],
    )
    def test_what_is_about_something_else_is_none(self, other: Alert) -> None:
        assert other.id != ALERT.id


class TestTheAddressIsASecret:
    def test_it_is_not_shown(self) -> None:
        (one,) = receivers({"kind": "slack", "url": "https://hooks.example/top-secret"})
        for shown in (repr(one), str(one), one.model_dump_json(), repr(one.model_dump()), repr(one.model_dump(mode="json"))):
            assert "secret" not in shown
            assert "**********" in shown

    def test_it_can_be_dumped_to_be_read_back(self) -> None:
        (one,) = receivers({"kind": "slack", "url": "https://hooks.example/top-secret"})
        assert receivers(one.model_dump()) == (one,)

    @pytest.mark.parametrize(
        "url",
        ["", "ftp://host/secret", "file:///etc/secret", "hooks.example/secret", "https://", "http://host:no/secret", "http://[::1/secret",
         "https://host/sec ret", "https://host/sécret"],
    )  # fmt: skip
    def test_other_addresses_are_refused(self, url: str) -> None:
        with pytest.raises(ValidationError, match="begins with http:// or https://"):
            receivers({"kind": "webhook", "url": url})

    def test_it_may_come_from_the_environment_where_it_is_read_at_delivery(
        self, listener: Listener, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told = receivers({"kind": "webhook", "url": {"env": "ON_CALL"}})
        monkeypatch.setenv("ON_CALL", f"{listener.url}/top-secret")
        send(told, ALERT)
        assert [one["id"] for one in listener.heard] == [ALERT.id]
        for shown in (repr(told), str(told[0]), told[0].model_dump_json(), repr(told[0].model_dump())):
            assert "secret" not in shown
            assert "ON_CALL" in shown
        assert receivers(told[0].model_dump(mode="json")) == told

    def test_one_that_is_not_set_then_is_told_of_and_the_others_are_told(
        self, listener: Listener, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("ON_CALL", raising=False)
        both = receivers({"kind": "slack", "url": {"env": "ON_CALL"}}, {"kind": "webhook", "url": listener.url})
        (fault,) = send_all(both, [ALERT], no_pause)
        assert fault == (
            f"The slack receiver of ON_CALL was not told {ALERT.title!r}: the environment variable ON_CALL is not set; set it "
            "where this process is started."
        )
        assert len(listener.heard) == 1

    @pytest.mark.parametrize("url", ["ftp://host/secret", "hooks.example/secret", "https://host/sec ret", "{{ secret }}"])
    def test_another_address_is_refused_then_and_not_shown(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ON_CALL", url)
        with pytest.raises(AlertFailed, match=r"ON_CALL holds no address that begins with http:// or https://\.$") as raised:
            send(receivers({"kind": "webhook", "url": {"env": "ON_CALL"}}), ALERT, no_pause)
        error: BaseException | None = raised.value
        while error is not None:
            assert "secret" not in repr(error)
            assert "sec ret" not in repr(error)
            error = error.__cause__ or error.__context__

    @pytest.mark.parametrize("url", [3, None, ["https://host"], {"env": 3}, {"environment": "ON_CALL"}])
    def test_what_is_no_address_is_refused(self, url: object) -> None:
        with pytest.raises(ValidationError, match="url"):
            receivers({"kind": "webhook", "url": url})

    def test_a_receiver_of_no_known_kind_is_refused(self) -> None:
        with pytest.raises(ValidationError, match="'log', 'webhook', 'slack'"):
            receivers({"kind": "pigeon", "url": "https://host"})
