"""What is decided about webhooks: signatures, tries, and where they may go."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agentray.core.webhooks import is_allowed, judge, literal_address, new_secret, sign
from agentray.gateway.webhook_transport import AddressRefused, Gate
from agentray.protocol.webhooks import WebhookSpec


def test_it_is_signed_as_the_example_of_standard_webhooks():
    signature = sign(
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_while_a_secret_is_replaced_both_sign():
    old, new = (new_secret(bytes([n]) * 24) for n in (1, 2))
    assert new.startswith("whsec_")
    both = sign([new, old], "wh_1", 7, b"{}").split(" ")
    assert both == [sign([new], "wh_1", 7, b"{}"), sign([old], "wh_1", 7, b"{}")]


@given(
    status=st.none() | st.integers(100, 599),
    attempts=st.integers(1, 12),
    jitter=st.floats(0, 1),
    retry_after_s=st.none() | st.floats(0, 1e9),
)
def test_it_is_tried_again_until_it_has_arrived_or_was_tried_often_enough(
    status: int | None, attempts: int, jitter: float, retry_after_s: float | None
):
    verdict = judge(status, attempts, 10, jitter=jitter, retry_after_s=retry_after_s)
    assert verdict.delivered == (status is not None and status // 100 == 2)
    over = verdict.delivered or status == 410 or attempts >= 10
    assert (verdict.again_in_s is None) == over
    if verdict.again_in_s is not None:
        assert 3.75 <= verdict.again_in_s <= 24 * 3600
        assert verdict.again_in_s >= min(retry_after_s or 0, 24 * 3600)
    assert judge(None, attempts, 10, jitter=jitter, refused=True).again_in_s is None


def test_the_tries_take_about_a_day():
    pauses = [judge(503, n, 10, jitter=0.5).again_in_s for n in range(1, 10)]
    assert pauses[:3] == [5, 20, 80]
    assert 20 * 3600 < sum(pause or 0 for pause in pauses) < 36 * 3600


REFUSED = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254",
    "100.64.0.1", "224.0.0.1", "239.255.255.250", "255.255.255.255", "192.0.2.1", "198.18.0.1",
    "240.0.0.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12:3456::1", "ff02::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:db8::1",
    "::127.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize("address", REFUSED)
def test_addresses_that_are_not_public_are_refused(address: str):
    assert not is_allowed(ip_address(address), ())


@pytest.mark.parametrize(
    "address", ["93.184.215.14", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"]
)
def test_public_addresses_are_allowed(address: str):
    assert is_allowed(ip_address(address), ())


def test_networks_can_be_allowed():
    allowed = [ip_network("10.1.0.0/16"), ip_network("fd00::/8")]
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "fd00::7"):
        assert is_allowed(ip_address(address), allowed), address
    assert not is_allowed(ip_address("10.2.0.1"), allowed)


def test_without_tls_they_go_to_allowed_networks_only():
    gate = Gate([ip_network("10.1.0.0/16")])
    gate.check(ip_address("10.1.0.1"), "http")
    gate.check(ip_address("8.8.8.8"), "https")
    with pytest.raises(AddressRefused, match="https"):
        gate.check(ip_address("8.8.8.8"), "http")
    for url in ("https://[::ffff:127.0.0.1]/x", "https://127.0.0.1:8000/", "ftp://example.com/"):
        with pytest.raises(AddressRefused):
            gate.check_url(url)
    gate.check_url("https://example.com/")  # a name is looked at when it is resolved


def test_what_is_an_address_and_what_is_a_name():
    assert literal_address("[::1]") == ip_address("::1")
    assert literal_address("2130706433") is None, "the resolver knows what it means"


@pytest.mark.parametrize(
    "url",
    [
        "", "example.com", "/x", "ftp://example.com", "https://", "https:///x", "http:example.com",
        "https://user:pw@example.com/", "https://user@example.com/", "https://exa mple.com",
        "https://example.com:port/", "https://example.com/\n", "https://[::1", "data:x,y",
        "https://exämple.com/", "https://example.com/" + "x" * 2048,
    ],
)  # fmt: skip
def test_what_is_no_url_is_refused_with_its_field(url: str):
    with pytest.raises(ValidationError) as raised:
        WebhookSpec.model_validate_json(WebhookSpec.model_construct(url=url).model_dump_json())
    assert raised.value.errors()[0]["loc"] == ("url",)
