"""The life of a domain's policy, as a state machine without I/O.

`state.py` says what can be known of a domain, `events.py` what can happen and what the machine can
ask for, `machine.py` holds the rules and what both dialects share, `rfc8461.py` and `draft00.py`
are the tables of the two dialects, `answer.py` says what a state means for mail.
"""
