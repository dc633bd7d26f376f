"""Which versions of a server are known; any other is refused before anything has changed."""

from __future__ import annotations

from dataclasses import dataclass

from packaging.version import InvalidVersion, Version

import kvgen


class UnknownVersion(RuntimeError):
    """The server that is installed is of a version that was never tried."""


@dataclass(frozen=True)
class Known:
    """The versions of a server that kvgen was run with: from `oldest` up to, not with, `beyond`."""

    server: str
    oldest: str
    beyond: str

    def has(self, version: str) -> bool:
        try:
            # a build's own suffix, as of a CPU's, changes nothing
            found = Version(Version(version).base_version)
        except InvalidVersion:
            # as of sources that were never built, "dev"
            return False
        return Version(self.oldest) <= found < Version(self.beyond)

    def require(self, version: str) -> None:
        """Raises UnknownVersion, with the versions that are known."""
        if not self.has(version):
            raise UnknownVersion(
                f"{self.server} {version} is not known to kvgen {kvgen.__version__}, which knows "
                f"those from {self.oldest} up to, not with, {self.beyond}; nothing was changed"
            )
