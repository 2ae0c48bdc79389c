"""Notifications about failed runs and late windows. A notifier is any object with a method `send(alert)`."""

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

#: Timeout of an attempt in seconds, and number of attempts. All attempts of two notifiers fit into the 60 s of a sensor
#: tick.
TIMEOUT = 5.0
ATTEMPTS = 3
#: Maximum text length. Slack truncates the text of a section after 3,000 characters (Block Kit reference).
SLACK_TEXT = 2900
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


class NotifyError(RuntimeError):
    """A notifier could not deliver an alert. The message has no URL and no password."""


@dataclass(frozen=True)
class Alert:
    """An event to notify about, such as a failed run that will not be retried, or a window that waits too long.

    Attributes:
        title: One line.
        url: Page with details.
        reason: Text of any length.
    """

    title: str
    url: str
    reason: str

    @classmethod
    def of_run(cls, job: str, attempts: int, url: str, reason: str) -> Alert:
        """Return the alert for a failed run."""
        tries = f" after {attempts} attempts" if attempts > 1 else ""
        return cls(f"Run of {job} failed{tries}", url, reason)


class Notifier(Protocol):
    """Delivers alerts."""

    def send(self, alert: Alert) -> None:
        """Deliver an alert.

        Raises:
            NotifyError: The alert could not be delivered.
        """


@dataclass(frozen=True)
class LogNotifier:
    """Logs alerts in the daemon's log."""

    def send(self, alert: Alert) -> None:
        """Log an alert as an error of the logger `lakehouse_analytics`."""
        logging.getLogger("lakehouse_analytics").error("%s: %s\n%s", alert.title, alert.url, alert.reason)


@dataclass(frozen=True)
class SlackNotifier:
    """Posts to an incoming webhook (https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks)."""

    webhook_url: str = field(repr=False)

    def send(self, alert: Alert) -> None:
        """Post an alert to Slack."""
        import requests

        # Backticks would end the block, and Slack would interpret `<!channel>` and the like.
        title, reason = (
            text[:SLACK_TEXT].replace("```", "'" * 3).translate(_ESCAPES) for text in (alert.title, alert.reason)
        )
        text = f"*<{alert.url}|{title}>*\n```{reason}```"
        try:
            # A redirected POST becomes a GET, which would lose the alert.
            response = requests.post(self.webhook_url, json={"text": text}, timeout=TIMEOUT, allow_redirects=False)
        except requests.RequestException as error:
            # The exception's text has the URL, which is a secret.
            raise NotifyError(f"Slack: {type(error).__name__}; check LAKEHOUSE_SLACK_WEBHOOK_URL") from None
        if not 200 <= response.status_code < 300:
            raise NotifyError(f"Slack: HTTP {response.status_code}; check LAKEHOUSE_SLACK_WEBHOOK_URL")


@dataclass(frozen=True)
class SmtpNotifier:
    """Sends alerts by email."""

    host: str
    port: int
    sender: str
    receivers: tuple[str, ...]
    starttls: bool = True
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    def send(self, alert: Alert) -> None:
        """Send an alert by email."""
        message = EmailMessage()
        # A header must not have line breaks, but a job's name may.
        subject = " ".join(alert.title.split())
        message["Subject"], message["From"], message["To"] = subject, self.sender, ", ".join(self.receivers)
        message.set_content(f"{alert.title}\n{alert.url}\n\n{alert.reason}\n".encode(errors="replace").decode())
        try:
            with smtplib.SMTP(self.host, self.port, timeout=TIMEOUT) as server:
                if self.starttls:
                    server.starttls(
                        context=ssl.create_default_context()
                    )  # without a context, the server's certificate is not verified
                if self.user:
                    server.login(self.user, self.password or "")
                refused = server.send_message(message)
        except (OSError, smtplib.SMTPException, ValueError) as error:  # ValueError: a password that is not ASCII
            raise NotifyError(f"SMTP {self.host}:{self.port}: {type(error).__name__}; check LAKEHOUSE_SMTP_*") from None
        if refused:
            raise NotifyError(f"SMTP {self.host}:{self.port} refused {', '.join(refused)}; check LAKEHOUSE_SMTP_TO")


def deliver(notifier: Notifier, alert: Alert) -> None:
    """Send an alert with retries after one and two seconds, because the sensor processes each failure only once.

    Raises:
        NotifyError: The last attempt failed.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            notifier.send(alert)
        except NotifyError:
            if attempt == ATTEMPTS:
                raise
            time.sleep(attempt)
        else:
            return


def notify_all(notifiers: Sequence[Notifier], alert: Alert, log: logging.Logger) -> list[str]:
    """Send an alert to all notifiers. An error of one, of whatever kind, does not affect the others.

    Returns:
        The errors, which are also logged.
    """
    problems = []
    for notifier in notifiers:
        try:
            deliver(notifier, alert)
        except NotifyError as error:
            problem = str(error)
        except Exception as error:  # the other notifiers must still be called
            # The text of an exception may contain a URL or a password. Its type and location do not.
            place = traceback.extract_tb(error.__traceback__)[-1]
            problem = f"{type(notifier).__name__}: {type(error).__name__} in {Path(place.filename).name}:{place.lineno}"
        else:
            continue
        log.error(problem)  # without a traceback, which may contain a secret
        problems.append(problem)
    return problems


def notify_at_least_one(notifiers: Sequence[Notifier], alert: Alert, log: logging.Logger) -> bool:
    """Send an alert to all notifiers. Return whether at least one accepted it, or there are none."""
    problems = notify_all(notifiers, alert, log)
    return not problems or len(problems) < len(notifiers)


def notifiers(settings: Settings) -> list[Notifier]:
    """Return the notifiers in LAKEHOUSE_NOTIFY. `Settings.load` has verified that their settings are complete."""
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
