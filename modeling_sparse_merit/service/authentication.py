# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Who may use the service: a bearer token, and the addresses that need one."""

import hashlib
import hmac
import ipaddress
from pathlib import Path

MIN_TOKEN = 16  # characters


class Token:
    """A bearer token, of which only the SHA-256 is kept.

    Args:
        text: the token.

    Raises:
        ValueError: the token is short, or has characters that a header cannot hold.
    """

    def __init__(self, text: str):
        if len(text) < MIN_TOKEN or not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError(
                f"The token has {len(text)} characters; expected one line of at least {MIN_TOKEN} printable ASCII "
                "characters without spaces. Make one with: openssl rand -hex 32"
            )
        self._digest = hashlib.sha256(text.encode()).digest()

    def matches(self, authorization: bytes) -> bool:
        """Whether a header `Authorization` holds the token; the time does not depend on where they differ."""
        scheme, _, given = authorization.partition(b" ")
        return hmac.compare_digest(hashlib.sha256(given).digest(), self._digest) and scheme.lower() == b"bearer"


def read_token(path: Path) -> Token:
    """Reads the token from a file, without the whitespace around it.

    Raises:
        OSError: the file cannot be read.
        ValueError: the token is invalid.
    """
    return Token(path.read_text(encoding="utf-8").strip())


def is_loopback(host: str) -> bool:
    """Whether an address is reachable from this computer alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # another name
        return False


def check_host(host: str, token: Token | None) -> None:
    """Checks that other computers cannot use the service without a token.

    Args:
        host: the address to bind to.
        token: the token; None if there is none.

    Raises:
        ValueError: the address is not a loopback address, and there is no token.
    """
    if token is None and not is_loopback(host):
        raise ValueError(
            f"--host {host} makes the service reachable from other computers: give --token-file with a secret that "
            "its clients send, or bind to 127.0.0.1."
        )
