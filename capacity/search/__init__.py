"""The best plan among very many: hardware × engine × dtype × levers × sharing × batch × replicas × way of buying."""

from capacity.search.answer import found, simulated
from capacity.search.engines import ENGINES, run
from capacity.search.mixing import mixed
from capacity.search.tried import Tried, tried
from capacity.search.variants import devices, variants

__all__ = ["ENGINES", "Tried", "devices", "found", "mixed", "run", "simulated", "tried", "variants"]
