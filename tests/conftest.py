"""What every test needs: property tests without deadlines, the same examples in every run."""

from hypothesis import settings

# The first example of a kernel pays for its compilation. A run that fails must fail again: new
# examples are looked for on request, with `pytest --hypothesis-profile explore`.
settings.register_profile("cosim", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=500)
settings.load_profile("cosim")
