"""Families for multimodal: being written."""

from nas.family import Family

FAMILIES: tuple[Family, ...] = ()
