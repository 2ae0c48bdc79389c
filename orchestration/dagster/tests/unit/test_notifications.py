from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from lakehouse_analytics.notifications import (
    SLACK_TEXT,
    Alert,
    LogNotifier,
    NotifyError,
    SlackNotifier,
    SmtpNotifier,
    notifiers,
    notify_all,
)
from lakehouse_analytics.settings import Settings

ALERT = Alert.of_run(
    job="full_refresh",
    attempts=1,
    url="https://dagster.example/runs/1234-abcd",
    reason="✘ bronze/stg_orders failed its gate: unique: 3 rows\n2 of 9 tables were built.",
)
SECRET = "s3cret"


class Hook(HTTPServer):
    """A webhook's endpoint: keeps what it was sent, answers as logged."""

    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HookHandler)
        self.received: list[Any] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/services/{SECRET}"


class HookHandler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((self.path, self.headers["Content-Type"], json.loads(body)))
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Hook() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Mailbox:
    """Accepts mail, except for one unknown recipient."""

    def __init__(self) -> None:
        self.received: list[tuple[str, list[str], EmailMessage]] = []

    async def handle_RCPT(  # noqa: N802  # aiosmtpd's name
        self, server: Any, session: Any, envelope: Any, address: str, options: Any
    ) -> str:
        if address.startswith("unknown@"):
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        message = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        self.received.append((envelope.mail_from, envelope.rcpt_tos, message))
        return "250 OK"


class MailServer:
    def __init__(self, controller: Controller, mailbox: Mailbox) -> None:
        self.received = mailbox.received
        assert isinstance(controller.server, asyncio.Server)
        self.port = controller.server.sockets[0].getsockname()[1]

    def notifier(self, *to: str, **more: Any) -> SmtpNotifier:
        return SmtpNotifier(
            "127.0.0.1", self.port, "lake@example.com", to or ("ann@example.com",), **{"starttls": False, **more}
        )


@pytest.fixture
def mail() -> Iterator[MailServer]:
    mailbox = Mailbox()

    def authenticate(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        return AuthResult(success=(data.login, data.password) == (b"lake", SECRET.encode()), handled=False)

    controller = Controller(
        mailbox, hostname="127.0.0.1", port=free_port(), authenticator=authenticate, auth_require_tls=False
    )
    controller.start()
    yield MailServer(controller, mailbox)
    controller.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def refused(notifier: Any, alert: Alert = ALERT) -> NotifyError:
    with pytest.raises(NotifyError) as caught:
        notifier.send(alert)
    return caught.value


def logged(error: BaseException | None) -> str:
    """Return what a log shows of an exception: its text, and that of the exceptions which it does not suppress."""
    text = ""
    while error is not None:
        text += f"{error} {error!r} "
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return text


@pytest.mark.parametrize(
    ("attempts", "title"), [(1, "Run of full_refresh failed"), (3, "Run of full_refresh failed after 3 attempts")]
)
def test_the_title_counts_attempts_only_where_there_were_several(attempts: int, title: str) -> None:
    assert Alert.of_run("full_refresh", attempts, "u", "why").title == title


def test_the_log_holds_title_link_and_reason(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "lakehouse_analytics"):
        LogNotifier().send(ALERT)
    [record] = caplog.records
    assert record.levelname == "ERROR"
    assert record.getMessage() == f"Run of full_refresh failed: {ALERT.url}\n{ALERT.reason}"


def test_slack_gets_a_link_and_the_reason(hook: Hook) -> None:
    SlackNotifier(hook.url).send(ALERT)
    [(path, content_type, body)] = hook.received
    assert path == f"/services/{SECRET}"
    assert content_type == "application/json"
    assert body == {"text": f"*<{ALERT.url}|Run of full_refresh failed>*\n```{ALERT.reason}```"}


def test_a_reason_cannot_command_slack_or_leave_its_block(hook: Hook) -> None:
    SlackNotifier(hook.url).send(Alert.of_run("j", 1, "https://d/runs/r", "rows < 5 && <!channel> ```*x*```"))
    [(_, _, body)] = hook.received
    assert body["text"].endswith("\n```rows &lt; 5 &amp;&amp; &lt;!channel&gt; '''*x*'''```")


def test_a_long_reason_is_cut_for_slack(hook: Hook) -> None:
    SlackNotifier(hook.url).send(Alert.of_run("j", 1, "u", "<" * 10_000))
    [(_, _, body)] = hook.received
    assert body["text"].endswith("```" + "&lt;" * SLACK_TEXT + "```")


@pytest.mark.parametrize("status", [302, 400, 403, 404, 500, 503])
def test_slack_saying_no_is_an_error_without_the_webhook(hook: Hook, status: int) -> None:
    hook.status = status
    error = refused(SlackNotifier(hook.url))
    assert str(error) == f"Slack: HTTP {status}; check LAKEHOUSE_SLACK_WEBHOOK_URL"
    assert SECRET not in logged(error)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:{port}/{secret}", "{secret}", "ftp://x/{secret}", "http://[{secret}", "https://:80/{secret}"],
)
def test_an_unreachable_or_nonsensical_webhook_is_an_error_without_the_webhook(url: str) -> None:
    error = refused(SlackNotifier(url.format(port=free_port(), secret=SECRET)))
    assert "LAKEHOUSE_SLACK_WEBHOOK_URL" in str(error)
    assert SECRET not in logged(error)


def test_a_mail_holds_title_link_and_reason(mail: MailServer) -> None:
    mail.notifier("ann@example.com", "bob@example.com").send(ALERT)
    [(sender, receivers, message)] = mail.received
    assert sender == "lake@example.com"
    assert receivers == ["ann@example.com", "bob@example.com"]
    assert message["Subject"] == "Run of full_refresh failed"
    assert message["To"] == "ann@example.com, bob@example.com"
    assert message.get_content().replace("\r\n", "\n").strip() == f"{ALERT.title}\n{ALERT.url}\n\n{ALERT.reason}"


def test_a_mail_is_sent_after_logging_in(mail: MailServer) -> None:
    mail.notifier(user="lake", password=SECRET).send(ALERT)
    assert len(mail.received) == 1


@pytest.mark.parametrize("password", ["wr0ng-s3cret", "wröng-s3cret", ""])
def test_a_refused_log_in_is_an_error_without_the_password(mail: MailServer, password: str) -> None:
    error = refused(mail.notifier(user="lake", password=password))
    assert f"SMTP 127.0.0.1:{mail.port}: " in str(error)
    assert "LAKEHOUSE_SMTP_*" in str(error)
    assert SECRET not in logged(error)
    assert mail.received == []


def test_one_unknown_receiver_does_not_silence_the_others_and_is_told(mail: MailServer) -> None:
    error = refused(mail.notifier("unknown@example.com", "ann@example.com"))
    assert "refused unknown@example.com; check LAKEHOUSE_SMTP_TO" in str(error)
    assert [receivers for _, receivers, _ in mail.received] == [["ann@example.com"]]


def test_a_server_nobody_listens_on_is_an_error() -> None:
    port = free_port()
    error = refused(SmtpNotifier("127.0.0.1", port, "a@example.com", ("b@example.com",), password=SECRET))
    assert str(error) == f"SMTP 127.0.0.1:{port}: ConnectionRefusedError; check LAKEHOUSE_SMTP_*"
    assert SECRET not in logged(error)


def test_nothing_is_sent_in_the_clear_where_encryption_is_asked_for(mail: MailServer) -> None:
    # This server offers no STARTTLS.
    assert "SMTPNotSupportedError" in str(refused(mail.notifier(starttls=True, user="lake", password=SECRET)))
    assert mail.received == []


def test_the_certificate_of_the_mail_server_is_verified(mail: MailServer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[ssl.SSLContext | None] = []

    def starttls(self: Any, *, context: ssl.SSLContext | None = None) -> None:
        seen.append(context)

    monkeypatch.setattr("smtplib.SMTP.starttls", starttls)
    mail.notifier(starttls=True).send(ALERT)
    [context] = seen
    assert context is not None
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname


def test_settings_name_the_notifiers_in_order_and_hand_them_their_secrets() -> None:
    settings = Settings(
        notify="smtp,log,slack",
        slack_webhook_url=f"https://hooks.example/{SECRET}",
        smtp_host="mail",
        smtp_port=25,
        smtp_starttls=False,
        smtp_user="lake",
        smtp_password=SECRET,
        smtp_from="lake@example.com",
        smtp_to="ann@example.com,bob@example.com",
    )
    assert notifiers(settings) == [
        SmtpNotifier("mail", 25, "lake@example.com", ("ann@example.com", "bob@example.com"), False, "lake", SECRET),
        LogNotifier(),
        SlackNotifier(f"https://hooks.example/{SECRET}"),
    ]


def test_a_notifier_shown_in_a_log_does_not_show_its_secret() -> None:
    settings = Settings(notify="slack,smtp", slack_webhook_url=f"https://hooks.example/{SECRET}", smtp_password=SECRET)
    assert SECRET not in repr(notifiers(settings))


@pytest.mark.parametrize("error", [ValueError, KeyError, RuntimeError, UnicodeError, AssertionError])
def test_a_notifier_that_fails_in_any_way_does_not_keep_an_alert_from_the_others(
    error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def send(self, alert: Alert) -> None:
            raise error(SECRET)

    log = logging.getLogger("test")
    problems = notify_all([Broken(), LogNotifier()], ALERT, log)
    assert [problem.split(" in ")[0] for problem in problems] == [f"Broken: {error.__name__}"]
    assert ALERT.title in caplog.text
    assert SECRET not in caplog.text


def test_a_title_of_several_lines_is_one_subject(mail: MailServer) -> None:
    alert = Alert("Run of a\nBcc: x@example.com failed", ALERT.url, "half a pair: \ud83d")
    mail.notifier().send(alert)
    [(_, _, message)] = mail.received
    assert message["Subject"] == "Run of a Bcc: x@example.com failed"
    assert message["Bcc"] is None
