"""Who hears of a failed run. A notifier is anything with `send(alert)`."""

from __future__ import annotations

import logging
import smtplib
import ssl
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Protocol

from lakehouse_analytics.settings import Settings

#: Seconds for each try at a webhook or mail server: two notifiers with all their tries fit a sensor tick's 60.
TIMEOUT = 5.0
TRIES = 3
#: Slack cuts a section's text at 3,000 characters (Block Kit reference).
SLACK_TEXT = 2900
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


class NotifyError(RuntimeError):
    """A notifier could not deliver. The message holds no URL and no password."""


@dataclass(frozen=True)
class Alert:
    """What somebody must hear of: a failed run that will not be retried, a window that waits too long.

    Attributes:
        title: One line.
        url: Where to look.
        reason: As long as it needs.
    """

    title: str
    url: str
    reason: str

    @classmethod
    def of_run(cls, job: str, attempts: int, url: str, reason: str) -> Alert:
        """A failed run."""
        tries = f" after {attempts} attempts" if attempts > 1 else ""
        return cls(f"Run of {job} failed{tries}", url, reason)


class Notifier(Protocol):
    """Delivers alerts."""

    def send(self, alert: Alert) -> None:
        """Deliver one alert, or raise `NotifyError`."""


@dataclass(frozen=True)
class LogNotifier:
    """Writes to the daemon's log."""

    def send(self, alert: Alert) -> None:
        """Deliver to the logger `lakehouse_analytics`, level error."""
        logging.getLogger("lakehouse_analytics").error("%s: %s\n%s", alert.title, alert.url, alert.reason)


@dataclass(frozen=True)
class SlackNotifier:
    """Posts to an incoming webhook (https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks)."""

    webhook_url: str = field(repr=False)

    def send(self, alert: Alert) -> None:
        """Deliver to Slack."""
        import requests

        # Backticks would end the block early, and `<!channel>` and the like would be obeyed.
        title, reason = (
            text[:SLACK_TEXT].replace("```", "'" * 3).translate(_ESCAPES) for text in (alert.title, alert.reason)
        )
        text = f"*<{alert.url}|{title}>*\n```{reason}```"
        try:
            # A redirected POST becomes a GET: the alert would be lost.
            response = requests.post(self.webhook_url, json={"text": text}, timeout=TIMEOUT, allow_redirects=False)
        except requests.RequestException as error:
            # The exception's text has the URL, which is a secret.
            raise NotifyError(f"Slack: {type(error).__name__}; check LAKEHOUSE_SLACK_WEBHOOK_URL") from None
        if not 200 <= response.status_code < 300:
            raise NotifyError(f"Slack: HTTP {response.status_code}; check LAKEHOUSE_SLACK_WEBHOOK_URL")


@dataclass(frozen=True)
class SmtpNotifier:
    """Sends a mail."""

    host: str
    port: int
    sender: str
    receivers: tuple[str, ...]
    starttls: bool = True
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    def send(self, alert: Alert) -> None:
        """Deliver by mail."""
        message = EmailMessage()
        # A header has no line breaks, whatever a job is called.
        subject = " ".join(alert.title.split())
        message["Subject"], message["From"], message["To"] = subject, self.sender, ", ".join(self.receivers)
        message.set_content(f"{alert.title}\n{alert.url}\n\n{alert.reason}\n".encode(errors="replace").decode())
        try:
            with smtplib.SMTP(self.host, self.port, timeout=TIMEOUT) as server:
                if self.starttls:
                    server.starttls(
                        context=ssl.create_default_context()
                    )  # without it the server's certificate is not verified
                if self.user:
                    server.login(self.user, self.password or "")
                refused = server.send_message(message)
        except (OSError, smtplib.SMTPException, ValueError) as error:  # ValueError: a password beyond ASCII
            raise NotifyError(f"SMTP {self.host}:{self.port}: {type(error).__name__}; check LAKEHOUSE_SMTP_*") from None
        if refused:
            raise NotifyError(f"SMTP {self.host}:{self.port} refused {', '.join(refused)}; check LAKEHOUSE_SMTP_TO")


def deliver(notifier: Notifier, alert: Alert) -> None:
    """Send an alert, trying again after one and two seconds: the sensor passes each failure once.

    Raises:
        NotifyError: of the last try.
    """
    for attempt in range(1, TRIES + 1):
        try:
            notifier.send(alert)
        except NotifyError:
            if attempt == TRIES:
                raise
            time.sleep(attempt)
        else:
            return


def tell(notifiers: Sequence[Notifier], alert: Alert, log: logging.Logger) -> list[str]:
    """Send an alert to every notifier; one that fails, in whatever way, does not keep it from the others.

    Returns:
        What went wrong, which is also in this log.
    """
    problems = []
    for notifier in notifiers:
        try:
            deliver(notifier, alert)
        except NotifyError as error:
            problem = str(error)
        except Exception as error:  # the others must have the alert
            # An exception's text may hold a URL or a password; its type and place do not.
            place = traceback.extract_tb(error.__traceback__)[-1]
            problem = f"{type(notifier).__name__}: {type(error).__name__} in {Path(place.filename).name}:{place.lineno}"
        else:
            continue
        log.error(problem)  # without a traceback, which may hold a secret
        problems.append(problem)
    return problems


def heard(notifiers: Sequence[Notifier], alert: Alert, log: logging.Logger) -> bool:
    """Send an alert to all; whether somebody has got it, where anybody is to get it."""
    problems = tell(notifiers, alert, log)
    return not problems or len(problems) < len(notifiers)


def notifiers(settings: Settings) -> list[Notifier]:
    """The notifiers that LAKEHOUSE_NOTIFY names. `Settings.load` has checked that theirs is all set."""
    make: dict[str, Callable[[], Notifier]] = {
        "log": LogNotifier,
        "slack": lambda: SlackNotifier(_secret(settings.slack_webhook_url)),
        "smtp": lambda: SmtpNotifier(
            host=settings.smtp_host or "",
            port=settings.smtp_port,
            sender=settings.smtp_from or "",
            receivers=settings.smtp_to,
            starttls=settings.smtp_starttls,
            user=settings.smtp_user,
            password=_secret(settings.smtp_password) or None,
        ),
    }
    return [make[name]() for name in settings.notify]


def _secret(value: object) -> str:
    return value.get_secret_value() if hasattr(value, "get_secret_value") else ""
