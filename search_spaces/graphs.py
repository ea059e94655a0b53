"""Families for graphs: being written."""

from nas.family import Family

FAMILIES: tuple[Family, ...] = ()
