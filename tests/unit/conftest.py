"""Unit tests: no socket, no namespace, no waiting; property tests take the time that they take."""

from hypothesis import settings

settings.register_profile("unit", deadline=None, database=None)
settings.load_profile("unit")
