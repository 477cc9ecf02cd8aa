"""Profiles: gateways by name, in a file of the user's.

```toml
default = "work"

[work]
url = "https://agents.example.com"
key = "ar_…"
tenant = "acme"
```
"""

from __future__ import annotations

import stat
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from agentray.config import Settings
from agentray.errors import ConfigurationError

FILE = "profiles.toml"


class Profile(BaseModel):
    """How to reach a gateway.

    Attributes:
        url: of the gateway.
        key: an API key.
        key_file: a file that has it instead; one that begins with `~` is in the home directory.
        tenant: for whom, where the key belongs to none.
        user_token: on whose behalf.
        proxy: URL of an HTTP proxy.
        ca: a file of certificates to be trusted.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: str
    key: str | None = None
    key_file: Path | None = None
    tenant: str | None = None
    user_token: str | None = None
    proxy: str | None = None
    ca: Path | None = None

    def secret(self) -> str | None:
        """Return the key.

        Raises:
            ConfigurationError: its file cannot be read.
        """
        if self.key_file is None:
            return self.key
        try:
            return self.key_file.expanduser().read_text().strip()
        except OSError as error:
            raise ConfigurationError(f"The key of a profile cannot be read: {error}") from error


def find_profile(settings: Settings, name: str | None = None) -> Profile | None:
    """Return a profile.

    Args:
        settings: where the file is, and which profile is wanted.
        name: which one; None: what `AGENTRAY_PROFILE` says, else the file's `default`.

    Returns:
        None: none is named, and there is no default.

    Raises:
        ConfigurationError: there is none of this name, or the file is wrong.
    """
    file = settings.home / FILE
    wanted = name or settings.profile
    try:
        text = file.read_text()
    except (FileNotFoundError, NotADirectoryError):
        if wanted is None:
            return None
        raise ConfigurationError(f"There is no profile {wanted!r}: there is no {file}.") from None
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error}") from error
    told = _read(file, text)
    wanted = wanted or told.pop("default", None)
    if wanted is None:
        return None
    if not isinstance(found := told.get(wanted), dict):
        known = ", ".join(sorted(n for n in told if isinstance(told[n], dict))) or "none"
        raise ConfigurationError(f"{file} has no profile {wanted!r}; it has: {known}.")
    try:
        profile = Profile.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        told_wrong = f"{file}: the profile {wanted!r} is wrong: {field}: {first['msg']}."
        raise ConfigurationError(told_wrong) from None  # its values may be secrets
    if profile.key is not None:
        _check_private(file)
    return profile


def _read(file: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{file} is no TOML: {error}") from error


def _check_private(file: Path) -> None:
    if stat.S_IMODE(file.stat().st_mode) & 0o077:
        raise ConfigurationError(
            f"{file} has a key, and others may read it: run `chmod 600 {file}`."
        )
