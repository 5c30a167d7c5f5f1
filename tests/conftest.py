"""What every test needs: property tests without deadlines, the same examples in every CI run."""

import os

from hypothesis import settings

# the first example of a kernel pays for its compilation
settings.register_profile("cosim", deadline=None, derandomize=os.environ.get("CI") == "true")
settings.load_profile("cosim")
