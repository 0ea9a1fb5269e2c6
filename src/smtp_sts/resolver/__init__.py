"""The decision for a domain: `resolver.py` first, `life/` for what can become of a policy."""

from smtp_sts.resolver.decision import Decision
from smtp_sts.resolver.keeper import Keeper
from smtp_sts.resolver.reach import Reach
from smtp_sts.resolver.resolver import Resolver

__all__ = ["Decision", "Keeper", "Reach", "Resolver"]
