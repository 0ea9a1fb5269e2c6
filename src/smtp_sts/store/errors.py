"""What is raised where a store cannot be used."""

from __future__ import annotations


class StoreError(Exception):
    """The store cannot be used now; the message says why and what to do.

    `lost` tells that it cannot be reached: it is to be opened anew.
    """

    def __init__(self, message: str, *, lost: bool = False) -> None:
        super().__init__(message)
        self.lost = lost
