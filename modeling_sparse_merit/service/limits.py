# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Limits of the service, and how a request that exceeds one is refused."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What the service accepts.

    Args:
        megabytes: largest body of a request.
        seconds: longest recording; with the channel "each", the sum over the channels.
        queue: requests at the same time, from the first byte of the body to the last byte of the response.
        transfer_seconds: longest upload, and longest delivery of a response.
        analysis_seconds: longest time from the end of the upload to the result.
    """

    megabytes: float = 64.0
    seconds: float = 600.0
    queue: int = 32
    transfer_seconds: float = 60.0
    analysis_seconds: float = 120.0

    @property
    def bytes(self) -> int:
        """Largest body of a request in bytes."""
        return int(1e6 * self.megabytes)


class Refusal(Exception):
    """A request that the service does not fulfil.

    Args:
        status: status code of HTTP.
        message: why, and what to do; never more of the request than its sizes.
    """

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status, self.message = status, message


DISCONNECTED = 499
"""Status of a request whose client is gone; nobody receives it."""
