"""Attacks on the access gate: by other web sites, other accounts of the machine, and clients without the token."""

import hmac
import logging
import re
from collections.abc import Iterator
from typing import Any

import dash
import pytest
from dash import Input, Output, dcc, html
from hypothesis import given, settings
from hypothesis import strategies as st
from tfs_dash import security
from tfs_dash.front import Front, script_hash
from tfs_dash.security import MAX_BODY_BYTES, Gate, harden
from werkzeug.test import Client, TestResponse
from werkzeug.wrappers import Request

TOKEN = "the-right-token"
HOME = "http://127.0.0.1:7860"
UPDATE = "/_dash-update-component"
PATHS = ["/", "/any/page", "/_dash-layout", "/_dash-dependencies", "/assets/x.css", "/_favicon.ico", "/_reload-hash"]


def small_app() -> dash.Dash:
    app = dash.Dash("small", enable_mcp=False)
    app.layout = html.Div([dcc.Input(id="run", value="a"), html.Div(id="shown")])

    @app.callback(Output("shown", "children"), Input("run", "value"))
    def show(run: str) -> str:
        return f"secret curve of {run}"

    return app


class EarlyFront(Front):
    """Hands over to the app only when a request needs it."""

    def __init__(self, app: dash.Dash) -> None:
        super().__init__()
        self._late = app.server.wsgi_app

    def _answer(self, request: Request) -> Any:
        answer = super()._answer(request)
        if answer is None:
            self.hand_over(self._late)
        return answer


def guard(app: dash.Dash, *, is_early: bool = False, **options: Any) -> Gate:
    """Return a gate in front of an app, which is available at once or from the first request that needs it."""
    front = EarlyFront(app) if is_early else Front()
    options = {"token": TOKEN, "script_hashes": [script_hash()], **options}
    gate = Gate(front, **options)
    harden(app)
    if not is_early:
        gate.allow_scripts(app.csp_hashes())
        front.hand_over(app.server.wsgi_app)
    return gate


FUZZED = guard(small_app())


@pytest.fixture
def app() -> dash.Dash:
    return small_app()


@pytest.fixture(params=[False, True], ids=["with Dash", "before Dash is there"])
def gate(app: dash.Dash, request: pytest.FixtureRequest) -> Gate:
    return guard(app, is_early=request.param)


@pytest.fixture
def stranger(gate: Gate) -> Client:
    return Client(gate)


@pytest.fixture
def forger(gate: Gate) -> Client:
    return Client(gate, use_cookies=False)  # sends the Cookie header given in the request


@pytest.fixture
def friend(stranger: Client) -> Iterator[Client]:
    assert get(stranger, f"/?token={TOKEN}").status_code == 303
    return stranger


def get(client: Client, path: str, **headers: str) -> TestResponse:
    return client.get(path, base_url=HOME, headers={key.replace("_", "-"): value for key, value in headers.items()})


def ask(client: Client, **headers: str) -> TestResponse:
    question = {
        "output": "shown.children",
        "outputs": {"id": "shown", "property": "children"},
        "inputs": [{"id": "run", "property": "value", "value": "a"}],
        "changedPropIds": ["run.value"],
    }
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return client.post(UPDATE, base_url=HOME, json=question, headers=named)


# The token


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_served_without_the_token(stranger: Client, path: str) -> None:
    response = get(stranger, path)

    assert response.status_code == 401
    assert "tfs dash" in response.text


def test_library_code_is_not_served_without_the_token(stranger: Client, app: dash.Dash) -> None:
    assert get(stranger, "/_dash-component-suites/dash/html/dash_html_components.min.js").status_code == 401


def test_callbacks_do_not_answer_without_the_token(stranger: Client) -> None:
    response = ask(stranger)

    assert response.status_code == 401
    assert "secret" not in response.text


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "täuschung", "%ff%fe"])
def test_wrong_token_is_refused_and_sets_no_cookie(stranger: Client, token: str) -> None:
    response = get(stranger, f"/?token={token}")

    assert response.status_code == 401
    assert "Set-Cookie" not in response.headers


def test_refusal_does_not_tell_the_token(stranger: Client) -> None:
    assert TOKEN not in get(stranger, "/?token=wrong").text


def test_token_opens_once_and_then_the_cookie_does(friend: Client) -> None:
    assert get(friend, "/").status_code == 200
    assert "secret curve of a" in ask(friend).text


def test_token_leaves_the_address_and_the_rest_of_it_stays(stranger: Client) -> None:
    response = get(stranger, f"/compare?runs=a,b&token={TOKEN}&x=tokens")

    assert response.headers["Location"] == "/compare?runs=a,b&x=tokens"


def test_token_leaves_the_address_however_it_is_spelled(stranger: Client) -> None:
    assert get(stranger, f"/?tok%65n={TOKEN}").headers["Location"] == "/"


@pytest.mark.parametrize("path", ["//evil.example/", "///evil.example", "/\\evil.example", "/%2f/evil.example"])
def test_redirect_leads_to_no_other_host(stranger: Client, path: str) -> None:
    location = get(stranger, f"{HOME}{path}?token={TOKEN}").headers["Location"]

    assert re.match(r"/(?![/\\])", location)


def test_cookie_is_out_of_reach_of_scripts_and_other_sites(stranger: Client) -> None:
    cookie = get(stranger, f"/?token={TOKEN}").headers["Set-Cookie"]

    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert "Path=/" in cookie
    assert "Domain" not in cookie


def test_cookie_needs_https_where_the_tunnel_has_it(stranger: Client, gate: Gate) -> None:
    gate.share("abc.relay.example", encrypted=True)
    shared = stranger.get(f"/?token={TOKEN}", base_url="https://abc.relay.example")

    assert "Secure" in shared.headers["Set-Cookie"]
    assert "Secure" not in get(stranger, f"/?token={TOKEN}").headers["Set-Cookie"]


def test_two_dashboards_on_one_host_keep_their_cookies_apart(stranger: Client) -> None:
    names = {
        stranger.get(f"/?token={TOKEN}", base_url=f"http://localhost:{port}").headers["Set-Cookie"].partition("=")[0]
        for port in (7860, 7861)
    }

    assert len(names) == 2


def test_forged_cookie_is_refused(forger: Client) -> None:
    assert get(forger, "/", Cookie="tfs-dash-7860=wrong").status_code == 401


def test_cookie_that_another_site_slipped_in_does_not_lock_out(forger: Client) -> None:
    assert get(forger, "/", Cookie=f"tfs-dash-7860=slipped-in; tfs-dash-7860={TOKEN}").status_code == 200


def test_every_secret_is_compared_in_constant_time(forger: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []
    truly_compare = hmac.compare_digest

    def compare(given: bytes, secret: bytes) -> bool:
        compared.append(given)
        return truly_compare(given, secret)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    get(forger, "/?token=guessed-token")
    get(forger, "/", Cookie="tfs-dash-7860=guessed-cookie")

    assert compared == [b"guessed-token", b"guessed-cookie"]


def test_ticket_opens_the_gate_once_only(stranger: Client, app: dash.Dash, gate: Gate) -> None:
    ticket = gate.ticket()

    assert get(stranger, f"/?token={ticket}").status_code == 303
    assert get(stranger, "/").status_code == 200
    assert get(Client(gate), f"/?token={ticket}").status_code == 401


def test_unused_ticket_expires(stranger: Client, gate: Gate) -> None:
    assert get(stranger, f"/?token={gate.ticket(seconds=0)}").status_code == 401


def test_token_is_in_no_log_line(friend: Client, app: dash.Dash, caplog: pytest.LogCaptureFixture) -> None:
    @app.server.route("/_broken")
    def broken() -> str:
        raise RuntimeError("a bug")

    caplog.set_level(logging.DEBUG)
    get(friend, f"/?token={TOKEN}")
    get(friend, "/_broken?token=a-wrong-token")

    assert get(friend, "/_broken").status_code == 500
    assert "a bug" in caplog.text
    assert TOKEN not in caplog.text


def test_no_token_lets_this_machine_in(app: dash.Dash) -> None:
    assert get(Client(guard(app, token=None)), "/").status_code == 200


# Hosts


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:7860", "localhost:1", "LocalHost", "[::1]:7860", "[::1]"])
def test_names_of_this_machine_are_answered(stranger: Client, host: str) -> None:
    assert get(stranger, "/", Host=host).status_code == 401


@pytest.mark.parametrize(
    "host",
    [
        *["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "localhost.evil.example", "localhost.", ""],
        *[
            "127.0.0.1:7860@evil.example",
            "evil.example#127.0.0.1",
            "127.0.0.1, evil.example",
            "10.0.0.1",
            "[::2]",
            "::1",
        ],
        *["localhost:port", "localhost:", "0.0.0.0", "0x7f.1", "127.1", "2130706433", "127.0.0.1\t"],
    ],
)
def test_foreign_host_is_refused_even_with_the_token(stranger: Client, host: str) -> None:
    assert get(stranger, f"/?token={TOKEN}", Host=host).status_code == 400


def test_forwarded_host_changes_nothing(friend: Client) -> None:
    assert get(friend, "/", X_Forwarded_Host="evil.example").status_code == 200
    assert get(friend, "/", Host="evil.example", X_Forwarded_Host="127.0.0.1").status_code == 400


def test_allowed_host_is_answered(app: dash.Dash) -> None:
    client = Client(guard(app, names={"Box.example"}))

    assert get(client, "/", Host="box.example:80").status_code == 401
    assert get(client, "/", Host="127.0.0.1").status_code == 400


def test_only_the_newest_name_of_the_tunnel_is_answered(stranger: Client, gate: Gate) -> None:
    def status(name: str) -> int:
        return get(stranger, "/", Host=name).status_code

    gate.share("one.relay.example")
    assert status("one.relay.example") == 401
    gate.share("two.relay.example")
    assert (status("one.relay.example"), status("two.relay.example")) == (400, 401)
    gate.share(None)
    assert (status("two.relay.example"), status("localhost"), status("")) == (400, 401, 400)


def test_listening_everywhere_answers_addresses_but_no_foreign_name(app: dash.Dash) -> None:
    client = Client(guard(app, any_address=True))

    assert get(client, "/", Host="192.168.1.5:7860").status_code == 401
    assert get(client, "/", Host="[fe80::1]:7860").status_code == 401
    assert get(client, "/", Host="evil.example").status_code == 400


# Other sites


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "http://localhost:7860", ""])
def test_foreign_origin_is_refused(friend: Client, origin: str) -> None:
    assert ask(friend, Origin=origin).status_code == 403


def test_own_origin_is_answered(friend: Client) -> None:
    assert ask(friend, Origin=HOME, Sec_Fetch_Site="same-origin").status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site", "none-such"])
@pytest.mark.parametrize("mode", ["no-cors", "cors", "websocket"])
def test_request_from_another_sites_page_is_refused(friend: Client, site: str, mode: str) -> None:
    assert get(friend, "/_dash-layout", Sec_Fetch_Site=site, Sec_Fetch_Mode=mode).status_code == 403


def test_frame_in_another_sites_page_is_refused(friend: Client) -> None:
    framed = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"}

    assert get(friend, "/", **framed).status_code == 403


def test_form_of_another_site_is_refused(friend: Client) -> None:
    posted = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}

    assert ask(friend, **posted).status_code == 403


def test_link_on_another_site_may_be_followed(friend: Client) -> None:
    followed = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}

    assert get(friend, "/", **followed).status_code == 200


# Methods, bodies, paths


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "POST", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"])
@pytest.mark.parametrize("path", ["/", "/_dash-layout", "/assets/x.css"])
def test_only_reading_methods_are_answered(friend: Client, method: str, path: str) -> None:
    response = friend.open(path, method=method, base_url=HOME)

    assert response.status_code == 405
    assert response.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
def test_callbacks_are_only_posted_to(friend: Client, method: str) -> None:
    assert friend.open(UPDATE, method=method, base_url=HOME).status_code == 405


def test_huge_body_is_refused_unread(friend: Client) -> None:
    response = friend.post(UPDATE, base_url=HOME, data=b" " * (MAX_BODY_BYTES + 1), content_type="application/json")

    assert response.status_code == 413


@pytest.mark.parametrize(
    "path",
    [
        *["/assets/../../../../etc/passwd", "/assets/%2e%2e/%2e%2e/etc/passwd", "/assets//etc/passwd"],
        *["/static/../security.py", "/_dash-component-suites/dash/../../tfs_dash/security.py"],
        *["/_dash-component-suites/tfs_dash/security.py", "/_dash-component-suites/os/..%2f..%2fetc%2fpasswd"],
    ],
)
def test_path_traversal_is_refused(friend: Client, path: str) -> None:
    response = get(friend, path)

    assert response.status_code == 404 or "react-entry-point" in response.text  # no such file, or a page of the app
    assert "root:" not in response.text
    assert "compare_digest" not in response.text


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"output": 1}', b'{"output": "a.b", "outputs": []}'])
def test_malformed_callback_request_shows_no_traceback(friend: Client, body: bytes) -> None:
    response = friend.post(UPDATE, base_url=HOME, data=body, content_type="application/json")

    assert response.status_code >= 400
    assert "Traceback" not in response.text


HEADER = st.text(st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=40)


@settings(max_examples=200, deadline=None)
@given(host=st.sampled_from(["127.0.0.1"]) | HEADER, origin=HEADER, cookie=HEADER, token=st.text(max_size=40))
def test_malformed_headers_are_refused(host: str, origin: str, cookie: str, token: str) -> None:
    client = Client(FUZZED, use_cookies=False)
    answer = client.get("/", query_string={"token": token}, headers={"Host": host, "Cookie": cookie})
    asked = client.post(UPDATE, json={}, headers={"Host": host, "Origin": origin, "Cookie": cookie})

    assert answer.status_code in (400, 401)
    assert asked.status_code in (400, 401, 403)


def test_control_characters_in_log_lines_are_escaped() -> None:
    record = logging.LogRecord("x", logging.ERROR, "", 0, "Exception on %s", ("/\x1b]0;owned\x07",), None)

    assert security.EscapingFormatter("%(message)s").format(record) == "Exception on /\\x1b]0;owned\\x07"


def test_debug_of_the_environment_is_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_DEBUG", "1")
    app = small_app()
    harden(app)

    assert not app.server.debug


# Headers


@pytest.mark.parametrize("path", ["/", "/_dash-layout", "/assets/none.css", "/?token=wrong"])
def test_every_answer_has_the_security_headers(friend: Client, path: str) -> None:
    headers = get(friend, path).headers

    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


def test_refusals_of_the_gate_have_the_security_headers_too(stranger: Client) -> None:
    response = get(stranger, "/", Host="evil.example")

    assert "default-src 'self'" in response.headers["Content-Security-Policy"]


def test_policy_allows_scripts_of_this_host_and_the_hashed_ones_only(friend: Client, app: dash.Dash) -> None:
    policy = dict(part.split(" ", 1) for part in get(friend, "/").headers["Content-Security-Policy"].split("; "))

    assert policy["default-src"] == "'self'"
    assert policy["script-src"].split() == ["'self'", *app.csp_hashes()]
    assert "unsafe-eval" not in str(policy)
    assert "http" not in str(policy)


def test_data_is_not_cached(friend: Client) -> None:
    assert get(friend, "/").headers["Cache-Control"] == "no-store"
    assert get(friend, "/_dash-layout").headers["Cache-Control"] == "no-store"
    assert ask(friend).headers["Cache-Control"] == "no-store"


def test_library_code_is_cached_by_the_browser_only(friend: Client) -> None:
    script = re.search(r'src="(/_dash-component-suites/[^"]+)"', get(friend, "/").text)
    assert script is not None
    cache = get(friend, script[1]).headers["Cache-Control"]

    assert "private" in cache
    assert "max-age=31536000" in cache
    assert "public" not in cache
