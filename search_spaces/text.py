"""Families for text: being written."""

from nas.family import Family

FAMILIES: tuple[Family, ...] = ()
