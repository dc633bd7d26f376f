"""What a plug-in of a server raises before anything has changed."""

from __future__ import annotations


class Refused(RuntimeError):
    """A server was asked for what kvgen does not serve. reasons: each with what to change."""

    def __init__(self, reasons: list[str]) -> None:
        self.reasons = reasons
        said = "\n".join(f"  {each}" for each in reasons)
        super().__init__(f"kvgen cannot serve what is asked for; nothing was changed:\n{said}")
