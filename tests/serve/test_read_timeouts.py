"""A client that stalls within a request loses its connection; one that is slow or waits doesn't."""

import socket
import threading
import time

import pytest
import uvicorn

from burnish.serve.read_timeouts import TimedH11Protocol

HEAD = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 8\r\n"


class Impatient(TimedH11Protocol):
    header_seconds, silence_seconds = 1.5, 1.5


async def echo(scope, receive, send):
    """Answer with the body, once it is whole."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message.get("body", b""), message.get("more_body")
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def address():
    """Where a server listens that waits 1.5 seconds."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        echo, http=Impatient, lifespan="off", log_level="critical", timeout_keep_alive=60
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield listening.getsockname()
    server.should_exit = True
    thread.join(30)
    listening.close()


def read_answer(client):
    """The answer up to its body of eight letters."""
    answer = b""
    while len(answer.partition(b"\r\n\r\n")[2]) < 8 and (received := client.recv(1000)):
        answer += received
    return answer


@pytest.mark.parametrize(
    "begun",
    [b"", b"POST / HT", HEAD, HEAD + b"\r\n", HEAD + b"\r\nhalf"],
    ids=["nothing", "half a line", "half the headers", "no body", "half the body"],
)
def test_a_half_open_request_is_closed(address, begun):
    with socket.create_connection(address) as client:
        client.settimeout(30)
        client.sendall(begun)

        assert client.recv(100) == b"", "the server has closed the connection"


def test_a_body_that_comes_slowly_is_read(address):
    with socket.create_connection(address) as client:
        client.settimeout(30)
        client.sendall(HEAD + b"\r\n")
        for letter in b"abcdefgh":
            time.sleep(0.3)
            client.sendall(bytes([letter]))

        assert read_answer(client).endswith(b"abcdefgh")


def test_a_connection_is_kept_between_two_requests(address):
    with socket.create_connection(address) as client:
        client.settimeout(30)
        for _ in range(2):
            client.sendall(HEAD + b"\r\nabcdefgh")
            assert read_answer(client).endswith(b"abcdefgh")
            time.sleep(2)
