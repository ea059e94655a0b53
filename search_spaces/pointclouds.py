"""Families for pointclouds: being written."""

from nas.family import Family

FAMILIES: tuple[Family, ...] = ()
