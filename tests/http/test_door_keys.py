"""API keys: where they come from, who needs one, and that nobody gets to see them."""

import os

import anthropic
import pytest
from structlog.testing import capture_logs

from pensieved.cli.run import serve
from pensieved.errors import ConfigError, UsageError
from pensieved.http.door import check_exposure
from pensieved.settings import load_settings
from pensieved.settings.keys import api_keys
from pensieved.settings.schema import ServerSettings, Settings
from support.front import MODEL, question, running_front, wait_until

KEY, OTHER = "psv-3f9c1f0b", "psv-77e0aa41"
VARIABLE = "PENSIEVED_SERVER__API_KEYS"


@pytest.fixture(scope="module")
def front():
    with running_front(api_keys=(KEY, OTHER)) as running:
        yield running


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"# laptops\n{KEY}\n\n  {OTHER}  \n")
    path.chmod(0o600)
    return path


@pytest.fixture(autouse=True)
def _no_user_config(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": KEY},
        {"X-Api-Key": OTHER},
        {"authorization": f"Bearer {KEY}"},
        {"Authorization": f"bearer  {OTHER}"},
        {"x-api-key": "wrong", "authorization": f"Bearer {KEY}"},
    ],
)
def test_either_header_and_any_of_the_keys(front, headers):
    assert front.request("GET", "/v1/models", headers=headers).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-api-key": ""},
        {"x-api-key": "wrong"},
        {"x-api-key": KEY[:-1]},
        {"x-api-key": f"{KEY}x"},
        {"x-api-key": KEY.upper()},
        {"x-api-key": "k\xe4se"},
        {"authorization": KEY},
        {"authorization": f"Basic {KEY}"},
        {"authorization": "Bearer"},
        {"x-api-key": f"{KEY}, {KEY}"},
    ],
)
@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/status", "/v1/messages", "/metrics", "/nowhere", "/v1/models/"]
)
def test_without_a_right_key_nothing_is_told(front, headers, path):
    response = front.request("GET", path, headers=headers)
    assert response.status == 401
    assert response.json()["error"]["type"] == "authentication_error"
    assert response.json()["request_id"] == response.headers["request-id"]
    assert response.headers["www-authenticate"] == "Bearer"


def test_the_refusal_is_said_in_the_dialect_of_the_path(front):
    content = front.post("/v1/chat/completions", {}).json()
    assert set(content) == {"error"}
    assert content["error"]["code"] == "invalid_api_key"
    assert "type" in front.post("/v1/messages", {}).json()


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/health/"])
def test_watchdogs_need_no_key(front, path):
    assert front.get(path).status == 200
    assert front.request("HEAD", path).status == 200


@pytest.mark.parametrize("as_bearer", [False, True])
def test_the_sdk_with_a_key(front, as_bearer):
    given = {"auth_token": KEY} if as_bearer else {"api_key": KEY}
    with anthropic.Anthropic(base_url=front.url, max_retries=0, **given) as client:
        message = client.messages.create(model=MODEL, max_tokens=9, messages=question()["messages"])
    assert message.content[0].text == "Paris."


def test_the_sdk_with_a_wrong_key(front):
    with (
        anthropic.Anthropic(base_url=front.url, api_key="wrong", max_retries=0) as client,
        pytest.raises(anthropic.AuthenticationError),
    ):
        client.models.list()


def test_without_configured_keys_any_or_none_will_do():
    with running_front() as front:
        for headers in ({}, {"x-api-key": "dummy"}, {"authorization": "Bearer dummy"}):
            assert front.request("GET", "/v1/models", headers=headers).status == 200


def test_keys_are_in_no_log_and_no_answer(front):
    with capture_logs() as logs:
        bodies = [
            front.request("GET", path, headers={"x-api-key": key}).body
            for path in ("/v1/status", "/v1/models", "/metrics", "/openapi.json", "/")
            for key in (KEY, f"{KEY}x")
        ]
        wait_until(lambda: len(logs) >= len(bodies))
    told = repr(logs) + repr(bodies) + repr(front.daemon.settings) + str(front.daemon.settings)
    assert KEY not in told
    assert OTHER not in told


def test_keys_from_a_file(key_file):
    assert api_keys(ServerSettings(api_keys_file=key_file)) == (KEY, OTHER)
    assert api_keys(ServerSettings(api_keys_file=key_file, api_keys=("another-key",))) == (
        "another-key",
        KEY,
        OTHER,
    )


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o620])
def test_a_key_file_that_others_can_open_is_refused(key_file, mode):
    key_file.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        api_keys(ServerSettings(api_keys_file=key_file))
    assert f"{mode:04o}" in caught.value.what
    assert caught.value.hint == f"Run: chmod 600 {key_file}"


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_key_file_of_ones_own(key_file, mode):
    key_file.chmod(mode)
    if os.geteuid():
        assert os.access(key_file, os.R_OK)
    assert KEY in api_keys(ServerSettings(api_keys_file=key_file))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"# nothing\n", "holds no key"),
        (b"good-one\nwith space\n", ":2: an API key is"),
        ("käse\n".encode(), ":1: an API key is"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_a_key_file_with_what_is_no_key(key_file, content, says):
    key_file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        api_keys(ServerSettings(api_keys_file=key_file))
    assert says in caught.value.what
    assert "with space" not in caught.value.what


def test_a_key_file_that_is_missing_or_relative(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        api_keys(ServerSettings(api_keys_file=tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="relative"):
        api_keys(ServerSettings(api_keys_file="keys"))


@pytest.mark.parametrize("text", [f"{KEY},{OTHER}", f" {KEY} , {OTHER} ,", f'["{KEY}", "{OTHER}"]'])
def test_keys_from_the_environment(monkeypatch, text):
    monkeypatch.setenv(VARIABLE, text)
    assert api_keys(load_settings().server) == (KEY, OTHER)


@pytest.mark.parametrize("text", [f"{KEY} {KEY}", f'["{KEY}", 5]', f'["{KEY}"', f'["{KEY}", ""]'])
def test_a_wrong_value_in_the_environment_is_not_repeated(monkeypatch, text):
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert VARIABLE in caught.value.what
    assert KEY not in str(caught.value)


def test_keys_in_the_toml_only_if_nobody_else_reads_it(tmp_path):
    toml = tmp_path / "pensieved.toml"
    toml.write_text(f'[server]\napi_keys = ["{KEY}"]\n')
    toml.chmod(0o644)
    with pytest.raises(ConfigError) as caught:
        load_settings(config=toml)
    assert f"chmod 600 {toml}" in caught.value.hint
    assert KEY not in str(caught.value)
    toml.chmod(0o600)
    assert api_keys(load_settings(config=toml).server) == (KEY,)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.5", "my-mac.local", "::ffff:8.8.8.8"])
def test_an_address_that_others_reach_needs_a_key(host):
    with pytest.raises(UsageError) as caught:
        check_exposure(ServerSettings(host=host))
    assert caught.value.exit_code == 2
    assert "server.api_keys_file" in caught.value.hint
    check_exposure(ServerSettings(host=host, api_keys=(KEY,)))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "LOCALHOST"])
def test_loopback_needs_none(host):
    check_exposure(ServerSettings(host=host))


def test_run_refuses_before_it_listens():
    with pytest.raises(UsageError, match="no API key is configured"):
        serve(Settings(server=ServerSettings(host="0.0.0.0", port=0)))
