"""What a design rule is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """``source`` names the paper and section, and says which numbers are this project's own."""

    id: str
    statement: str
    source: str
