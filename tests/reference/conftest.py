"""Property tests take the time that they take, whatever else the machine does."""

from hypothesis import settings

settings.register_profile("reference", deadline=None, database=None)
settings.load_profile("reference")
