"""What holds for all tests."""

from __future__ import annotations

import os

from hypothesis import settings

# How long one example takes says more about what else the machine does. CI plays the same examples
# each time, so that a change is judged by what it changes; new ones are found by everybody's own
# runs, and by `make model`.
settings.register_profile("any-machine", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("any-machine")
