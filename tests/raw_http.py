"""Requests as bytes, ways to cut them into pieces, and a client that reads answers from a socket."""

import contextlib
import socket
import threading
from contextlib import closing, contextmanager

LIMIT = 2_000_000  # PRUNELLA_MAX_BODY_BYTES by default
ORIGIN = "https://a.example"


def body_of(size):
    """Return a valid request of `size` bytes: JSON with white space in it."""
    start, end = b'{"text": "good film"', b"}"
    return start + b" " * (size - len(start) - len(end)) + end


def request(body, *lines, path="/v1/classify", method="POST"):
    head = [f"{method} {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *lines]
    return "\r\n".join([*head, f"Content-Length: {len(body)}"]).encode() + b"\r\n\r\n" + body


def chunked(body, size, trailers=b""):
    head = (
        b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
    )
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return head + b"\r\n" + chunks + b"0\r\n" + trailers + b"\r\n"


def in_one_piece(sent):
    return [sent]


def in_pieces(size):
    return lambda sent: [sent[i : i + size] for i in range(0, len(sent), size)]


def head_then_body(sent):
    head, end, body = sent.partition(b"\r\n\r\n")
    return [head + end, body]


@contextmanager
def client(url):
    host, port = url.removeprefix("http://").split(":")
    with closing(socket.create_connection((host, int(port)), timeout=20)) as opened:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield opened


class Answers:
    """Reads answers from a socket, one after the other."""

    def __init__(self, opened):
        self.socket, self.buffer = opened, b""

    def _more(self):
        part = self.socket.recv(65536)
        assert part, f"the server closed the connection after {self.buffer[:200]!r}"
        self.buffer += part

    def next(self):
        """Return (status, headers, body) of the next answer that is no 100 Continue."""
        while b"\r\n\r\n" not in self.buffer:
            self._more()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        if status.split()[1] == "100":
            return self.next()
        headers = dict(line.lower().split(": ", 1) for line in lines)
        length = int(headers["content-length"])
        while len(self.buffer) < length:
            self._more()
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        return int(status.split()[1]), headers, body

    def status(self):
        return self.next()[0]

    def is_over(self):
        """Whether the server closes the connection without another answer."""
        return not self.buffer and not self.socket.recv(1)


def send(opened, pieces):
    for piece in pieces:
        opened.sendall(piece)


@contextmanager
def sending(opened, pieces):
    """Send meanwhile, because a server may answer before everything was sent; a refusal may cut it short."""

    def work():
        with contextlib.suppress(OSError):
            send(opened, pieces)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield Answers(opened)
    finally:
        with contextlib.suppress(OSError):
            opened.shutdown(socket.SHUT_RDWR)
        thread.join()
