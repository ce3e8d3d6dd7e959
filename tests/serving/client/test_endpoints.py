"""endpoints: the URLs of servers."""

import pytest

from recdistill.serving.client.endpoints import Endpoint


@pytest.mark.parametrize(
    ("url", "address", "rest", "encrypted"),
    [
        ("host", "host:8500", False, False),
        ("host:1", "host:1", False, False),
        ("grpcs://host", "host:8500", False, True),
        ("https://host:443/", "host:443", True, True),
        ("http://[::1]:9", "[::1]:9", True, False),
    ],
)
def test_an_endpoint_is_parsed(url, address, rest, encrypted):
    endpoint = Endpoint.parse(url)
    assert (endpoint.address, endpoint.rest, endpoint.encrypted) == (
        address,
        rest,
        encrypted,
    )


@pytest.mark.parametrize("url", ["", "a:b", "http://", "http://a/v1", "http://a?b"])
def test_an_invalid_endpoint_is_an_error(url):
    with pytest.raises(ValueError, match="`endpoint` must be like grpc://"):
        Endpoint.parse(url)
