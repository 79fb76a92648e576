"""For all tests."""

from hypothesis import settings

# A machine that is busy is slow: no test fails for that.
settings.register_profile("raydsinfer", deadline=None)
settings.load_profile("raydsinfer")
