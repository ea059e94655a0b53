"""Families for audio: being written."""

from nas.family import Family

FAMILIES: tuple[Family, ...] = ()
