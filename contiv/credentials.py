"""How processes prove to etcd who they are: TLS files and user of the configuration, as ``Etcd.connect`` takes them.

The password is read here, once, from its file; it stands in no configuration, argument or log.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from contiv.config import EtcdConfig
from contiv.errors import ConfigError
from contiv.store.transport import AuthConfig, TlsConfig


def credentials(config: EtcdConfig) -> dict[str, Any]:
    """``tls`` and ``auth`` where they are configured; ConfigError for a password that cannot be read."""
    credentials: dict[str, Any] = {}
    if config.ca_file:
        credentials["tls"] = TlsConfig(
            ca=Path(config.ca_file),
            cert=Path(config.cert_file) if config.cert_file else None,
            key=Path(config.key_file) if config.key_file else None,
        )
    if config.username:
        try:
            password = Path(config.password_file).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            problem = getattr(error, "strerror", None) or str(error)
            raise ConfigError(
                "etcd.passwordFile", config.password_file, problem, remedy="name a readable file of text"
            ) from error
        credentials["auth"] = AuthConfig(user=config.username, password=password)
    return credentials
