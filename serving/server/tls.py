"""Keys and certificates of the gRPC port, in the file that the real server takes."""

from __future__ import annotations

import ssl
import tempfile
from pathlib import Path

import grpc

from serving.server.errors import ServingError
from serving.server.text_protos import read


def credentials(path: Path) -> grpc.ServerCredentials:
    """Reads a file for the real server's `--ssl_config_file`: an `SSLConfig` with inline PEM.

    Raises:
      ServingError: The file, its key or its certificate is no such thing, or they do not belong
        together.
    """
    config = read(path, "SSLConfig")
    for field in ("server_key", "server_cert"):
        if not getattr(config, field):
            raise ServingError(f"{path}: {field} is empty, expected PEM")
    if config.client_verify and not config.custom_ca:
        raise ServingError(f"{path}: client_verify needs custom_ca, to verify clients by")
    # gRPC would take anything and fail with every caller.
    with tempfile.TemporaryDirectory() as folder:
        key, certificate = Path(folder) / "key.pem", Path(folder) / "certificate.pem"
        key.touch(mode=0o600)
        key.write_text(config.server_key)
        certificate.write_text(config.server_cert)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(certificate, key, password=lambda: b"")
            if config.custom_ca:
                context.load_verify_locations(cadata=config.custom_ca)
        except (ssl.SSLError, ValueError) as error:
            reason = getattr(error, "reason", None) or str(error)
            raise ServingError(
                f"{path}: the key and the certificate cannot be used: {reason}"
            ) from error
    return grpc.ssl_server_credentials(
        [(config.server_key.encode(), config.server_cert.encode())],
        root_certificates=config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )
