"""SMTP Strict Transport Security in one package: policy daemon, library and lab.

Rooms and which of them may import which: see the README, "The house".
"""

__version__ = "0.1.0"
