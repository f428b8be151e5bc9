"""Let the processes of a run under test say what they do; Python imports this at every start."""

import os

if "INGOT_FAULTS" in os.environ:
    from tests.faults import inside

    inside.install()
