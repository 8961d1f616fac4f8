"""Host and Origin: what a web page, and a name that points here, may not do."""

import socket

import pytest

from support.front import MODEL, question, running_front

PAGE, EXTENSION = "https://app.example.com", "chrome-extension://abcdefghijklmnop"


@pytest.fixture(scope="module")
def front():
    with running_front(
        allowed_hosts=("Mac.local", "10.0.0.7"), allowed_origins=(PAGE, EXTENSION, "null")
    ) as running:
        yield running


@pytest.fixture(scope="module")
def closed():
    with running_front() as running:
        yield running


def asked(front, host):
    return front.request("GET", "/health", headers={"host": host})


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost:8765",
        "localhost.",
        "127.0.0.1",
        "127.0.0.1:1",
        "[::1]",
        "[::1]:8765",
        "[0:0:0:0:0:0:0:1]:80",
        "mac.local:8765",
        "MAC.LOCAL",
        "10.0.0.7:8765",
    ],
)
def test_names_of_this_machine(front, host):
    assert asked(front, host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example.com",
        "evil.example.com:8765",
        "localhost.evil.example.com",
        "127.0.0.1.nip.io",
        "10.0.0.8",
        "0.0.0.0",
        "[::2]",
        "::1",
        "localhost, evil.example.com",
        "localhost:8765:1",
        "user@localhost",
        "localhost/",
        "localhost:port",
        "[localhost]",
        "",
        ":8765",
        "l\xf6calhost",
    ],
)
@pytest.mark.parametrize("path", ["/health", "/v1/messages", "/v1/chat/completions"])
def test_any_other_name_is_refused(front, host, path):
    response = front.request("GET", path, headers={"host": host})
    assert response.status == 403
    assert "server.allowed_hosts" in response.json()["error"]["message"]
    assert response.headers["request-id"]


def raw(front, request):
    with socket.create_connection(("127.0.0.1", front.server.port), timeout=20) as sock:
        sock.sendall(request)
        received = b""
        while data := sock.recv(65536):
            received += data
    return received


def test_no_host_at_all(front):
    assert raw(front, b"GET /health HTTP/1.1\r\nconnection: close\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert raw(front, b"GET /health HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200 ")
    two = b"GET /health HTTP/1.1\r\nhost: localhost\r\nhost: evil.example.com\r\nconnection: close\r\n\r\n"
    assert raw(front, two).startswith(b"HTTP/1.1 403 ")


def test_where_every_address_is_listened_on_any_address_is_a_name_of_this_machine():
    with running_front(host="0.0.0.0", api_keys=("a-key",)) as front:  # only the settings say so
        assert asked(front, "192.168.1.5:8765").status == 200
        assert asked(front, "[fe80::1]:8765").status == 200
        assert asked(front, "evil.example.com").status == 403


def test_the_configured_host_is_one_too():
    with running_front(host="studio.lan", api_keys=("a-key",)) as front:
        assert asked(front, "studio.lan:8765").status == 200


def test_no_page_may_ask_by_default(closed):
    origins = (PAGE, "null", "http://localhost:3000", "http://127.0.0.1", EXTENSION, "file://", "")
    for origin in origins:
        for method, path in (("POST", "/v1/messages"), ("GET", "/v1/models"), ("GET", "/health")):
            response = closed.request(method, path, b"{}", {"origin": origin, "content-type": "text/plain"})
            assert response.status == 403, origin
            assert response.json()["error"]["type"] == "permission_error"
            assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize("origin", [PAGE, EXTENSION, "null", "HTTPS://App.Example.Com"])
def test_a_listed_page_may_ask_and_read_the_answer(front, origin):
    response = front.request(
        "POST", "/v1/messages", b"{}", {"origin": origin, "content-type": "application/json"}
    )
    assert response.status == 400  # the request is wrong, and the page can read why
    assert response.headers["access-control-allow-origin"] == origin
    assert "request-id" in response.headers["access-control-expose-headers"]
    assert response.headers["vary"].lower() == "origin"
    assert "access-control-allow-credentials" not in response.headers


@pytest.mark.parametrize(
    "origin",
    ["http://app.example.com", f"{PAGE}:444", f"{PAGE}.evil.com", "https://evil.com", "*", f"{PAGE}, {PAGE}"],
)
def test_pages_that_look_like_it_may_not(front, origin):
    response = front.request("GET", "/v1/models", headers={"origin": origin})
    assert response.status == 403
    assert "access-control-allow-origin" not in response.headers


def preflight(front, origin, path="/v1/messages", **headers):
    asking = {"origin": origin, "access-control-request-method": "POST"}
    return front.request(
        "OPTIONS", path, headers=asking | {k.replace("_", "-"): v for k, v in headers.items()}
    )


def test_a_preflight_names_what_is_allowed(front):
    wanted = (
        "x-api-key,anthropic-version,anthropic-beta,authorization,content-type,x-stainless-retry-count,x-evil"
    )
    response = preflight(front, PAGE, access_control_request_headers=wanted)
    assert (response.status, response.body) == (204, b"")
    assert response.headers["access-control-allow-origin"] == PAGE
    assert "POST" in response.headers["access-control-allow-methods"]
    assert response.headers["access-control-allow-headers"].split(", ") == wanted.split(",")[:-1]
    assert int(response.headers["access-control-max-age"]) > 0
    assert "origin" in response.headers["vary"].lower()
    assert "access-control-allow-private-network" not in response.headers


def test_a_preflight_from_the_public_web_to_this_machine(front):
    response = preflight(front, PAGE, access_control_request_private_network="true")
    assert response.headers["access-control-allow-private-network"] == "true"


def test_a_preflight_carries_no_key_and_needs_none():
    with running_front(api_keys=("a-key",), allowed_origins=(PAGE,)) as front:
        assert preflight(front, PAGE).status == 204
        assert front.request("OPTIONS", "/v1/messages", headers={"origin": PAGE}).status == 401


def test_a_preflight_from_elsewhere_is_refused(front, closed):
    for response in (preflight(front, "https://evil.com"), preflight(closed, PAGE)):
        assert response.status == 403
        assert not [name for name in response.headers if name.startswith("access-control")]


def test_clients_that_are_no_pages_see_nothing_of_it(front):
    response = front.post("/v1/messages", question())
    assert response.json()["model"] == MODEL
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert front.request("OPTIONS", "/v1/messages").headers["allow"]
