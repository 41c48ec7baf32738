"""What an HTTP status of the hub's proxy or Webdis means.

In: a response that is not 200. Out: one of our errors. Left to others: requests (`remote.session`,
`remote.websocket`), what follows from the error.
"""

from __future__ import annotations

from email.utils import parsedate_to_datetime

import httpx

from redisrepl.errors import BodyTooLargeError, CertificateError, CommandRefusedError, HubError, RedisreplError

__all__ = ["OK", "http_error"]

OK = 200


def http_error(url: str, response: httpx.Response) -> RedisreplError:
    """The error that a status other than 200 means."""
    status = response.status_code
    retry_after = response.headers.get("Retry-After", "")
    said = f"the hub {url} answered HTTP {status} {response.reason_phrase}"
    match status:
        case 400 if b"SSL certificate" in response.content:  # nginx, ssl_verify_client on
            return CertificateError(f"the hub {url} refuses our client certificate: check that its CA is the hub's")
        case 401 | 403:
            return CommandRefusedError(f"{said}: it does not allow this command or this client", status=status)
        case 404:
            return HubError(f"{said}: check the path of the address", status=status)
        case 413:
            return BodyTooLargeError(
                f"{said}: its proxy limits request bodies (nginx: client_max_body_size)", status=status
            )
        case 502 | 504:
            said = f"{said}: Webdis is down or restarting"
        case 503:
            said = f"{said}: Webdis is down or restarting, or its Redis is"
    return HubError(said, status=status, retry_after=_seconds_until(retry_after, response.headers.get("Date", "")))


def _seconds_until(retry_after: str, date: str) -> float | None:
    """The seconds that `Retry-After` asks for, by the hub's own clock if it names a time; None if it is invalid."""
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        until, now = parsedate_to_datetime(retry_after), parsedate_to_datetime(date)
        return max(0.0, (until - now).total_seconds())
    except (TypeError, ValueError, OverflowError):  # not dates, or only one of them with a time zone
        return None
