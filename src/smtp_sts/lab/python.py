"""How the lab starts Python, and this program, as processes of their own.

Promises: no file of the current directory is run as a module: without `-P` a `grp.py` that lies
there would be, as root where real mail servers are played. PYTHONPATH and the user's own packages
stay what they are, for the program may be installed there.
"""

from __future__ import annotations

import sys
from typing import Final

#: This interpreter; a program or its options follow.
PYTHON: Final = (sys.executable, "-P")
#: This program; a command of `smtp-sts` follows.
OURSELVES: Final = (*PYTHON, "-m", "smtp_sts")
