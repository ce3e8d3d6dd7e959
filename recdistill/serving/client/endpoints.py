"""Addresses of model servers: the URLs of gRPC and REST endpoints."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from recdistill.errors import ConfigError
from recdistill.serving.client.protocols import GRPC, REST, Message, ServingProtocol
from recdistill.serving.client.serving_errors import ServingError, error_of

__all__ = ["Endpoint"]


@dataclass(frozen=True)
class Endpoint:
    """Address and protocol of a server.

    Attributes:
        url: The URL passed to `parse`, with its scheme.
        host: Host name or IP address.
        port: TCP port.
        rest: True for REST, False for gRPC.
        encrypted: Whether connections use TLS.
    """

    url: str
    host: str
    port: int
    rest: bool
    encrypted: bool

    @property
    def address(self) -> str:
        """Host and port, with an IPv6 address in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def protocol(self) -> ServingProtocol:
        """The protocol of this endpoint."""
        return REST if self.rest else GRPC

    def failure(self, code: str, detail: object, message: Message) -> ServingError:
        """Creates the error of a request to this server.

        Args:
            code: Name of the gRPC status code.
            detail: Reason: a text or an exception.
            message: The request.
        """
        text = str(detail) or type(detail).__name__
        return error_of(code, text, message.what, self.url)

    def closed(self, message: Message) -> ServingError:
        """Creates the error of a request whose client has been closed."""
        return ServingError("CANCELLED", "the client is closed", message.what, self.url)

    @classmethod
    def parse(cls, url: str) -> Endpoint:
        """Parses "localhost:8500", "grpc://…", "grpcs://…", "http://…" or "https://…".

        Args:
            url: The default scheme is grpc. The default ports are TensorFlow Serving's:
                8500 for gRPC and 8501 for REST.

        Raises:
            ConfigError: If `url` has another form.

        Examples:
            >>> Endpoint.parse("localhost").address, Endpoint.parse("http://a").port
            ('localhost:8500', 8501)
        """
        whole = url if "://" in url else f"grpc://{url}"
        try:
            parts = urlsplit(whole)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        known = parts.scheme in ("grpc", "grpcs", "http", "https") if host else False
        if not host or not known or parts.path not in ("", "/") or parts.query:
            raise ConfigError(
                "`endpoint` must be like grpc://host:8500 or http://host:8501. "
                f"Received: endpoint={url!r}"
            )
        rest = parts.scheme.startswith("http")
        port = port or (8501 if rest else 8500)
        return cls(whole.rstrip("/"), host, port, rest, parts.scheme.endswith("s"))
