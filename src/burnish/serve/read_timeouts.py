"""HTTP connections that end when their client stalls: uvicorn itself waits for ever for a request.

Three hundred half-open requests would otherwise hold as many sockets and tasks until a restart.
"""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

#: Seconds from the connection to the end of the headers of its first request, and of silence within
#: a request that has begun.
HEADER_SECONDS, SILENCE_SECONDS = 30.0, 60.0


class TimedH11Protocol(H11Protocol):
    """uvicorn's protocol for one connection, closed when the client stalls within a request."""

    header_seconds, silence_seconds = HEADER_SECONDS, SILENCE_SECONDS
    _header_timer: asyncio.TimerHandle | None = None
    _silence_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the headers."""
        super().connection_made(transport)
        self._header_timer = self.loop.call_later(self.header_seconds, transport.close)

    def data_received(self, data: bytes) -> None:
        """Wait for the rest of the request, if there is more of it to come."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            _cancel(self._header_timer)
        _cancel(self._silence_timer)
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY) and not self._is_between_requests():
            self._silence_timer = self.loop.call_later(self.silence_seconds, self._close_if_stalled)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        _cancel(self._header_timer)
        _cancel(self._silence_timer)
        super().connection_lost(exc)

    def _close_if_stalled(self) -> None:
        """Close the connection, unless it is the server that does not read for now."""
        if self.flow.read_paused:
            self._silence_timer = self.loop.call_later(self.silence_seconds, self._close_if_stalled)
            return
        self.transport.close()

    def _is_between_requests(self) -> bool:
        """Return whether the whole of a request has come, and nothing of the next one."""
        return self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer:
        timer.cancel()
