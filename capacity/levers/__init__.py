"""Optimizations that a team can buy: small changes of a scenario, alone and together, planned like any other."""

from capacity.levers.lever import InapplicableError, Lever
from capacity.levers.search import ranked
from capacity.levers.shelf import LEVERS

__all__ = ["LEVERS", "InapplicableError", "Lever", "ranked"]
