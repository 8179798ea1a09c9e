"""What the stages of a pipeline would cost as somebody else's API, beside what they cost on devices of one's own.

A stage is sold where it reads or writes text: encoders by embedding tokens, cross-encoders by searches or tokens, LLMs
by tokens in and out. Models over ids, searches of one's own vectors and host work are not sold here, and say so.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from statistics import median
from typing import Literal

from capacity.errors import UnknownNameError
from capacity.money.prices import STALE_DAYS
from capacity.money.unit_costs import MONTH_S, monthly_requests
from capacity.phases import tokens
from capacity.phases.context import Context
from capacity.spec.apis import DOCUMENT_TOKENS, SEARCH_DOCUMENTS, ApiPrice
from capacity.spec.model import Model, TransformerModel
from capacity.spec.scenario import BatchJob, Scenario
from capacity.spec.stages import EncodeStage, FetchStage, GenerateStage, HostStage, RetrieveStage, Stage

Kind = Literal["text-embedding", "rerank", "llm"]
Relation = Literal["chosen", "same model", "nearest name", "another model"]
End = Literal["low", "median", "high"]
RELATIONS: tuple[Relation, ...] = ("chosen", "same model", "nearest name", "another model")
"""The first of these that has an offer is priced; the others are only listed."""
CACHED_FROM = 1024
"""Shared tokens of a prompt from which sellers take the price of cached input: the least that Anthropic's models ask
for (prompt_cache_min_tokens in BerriAI/litellm model_prices_and_context_window.json@00035b69); assumed for others."""
ALIKE = 0.6
"""Least similarity of two names (difflib) of models from different families."""
OWN_IDS = "a model over your own ids: nobody sells it"
_OF: Mapping[End, Callable[[list[float]], float]] = {"low": min, "median": median, "high": max}


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a stage or a job would ask of a seller in a month; `refused` says why nobody sells it."""

    name: str
    task: str
    model: str = ""
    kind: Kind | None = None
    refused: str = ""
    read: float = 0.0
    """Tokens, those of `cached` included."""
    cached: float = 0.0
    """Tokens of starts that prompts share and that are long enough to be cached."""
    written: float = 0.0
    searches: float = 0.0
    """Search units of a reranker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A seller's model for a need, and the month it would charge."""

    provider: str
    model: str
    relation: Relation
    usd: float
    prices: tuple[ApiPrice, ...]
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One stage or job: what it needs, who would sell it, and what its share of the devices costs.

    Attributes
    ----------
    offers
        All of them, those that are priced first, each group cheapest first.
    own_usd
        Share of the month's device lines [USD]; None where they have no price.
    """

    need: Need
    offers: tuple[Offer, ...]
    own_usd: float | None = None

    @property
    def priced(self) -> tuple[Offer, ...]:
        """The offers that count: of the nearest relation, stand-ins only where there is nothing else."""
        near = [offer for offer in self.offers if offer.relation == self.offers[0].relation]
        real = [offer for offer in near if all(price.quality != "assumed" for price in offer.prices)]
        return tuple(real or near)

    def usd(self, end: End) -> float | None:
        """Return the month's price at the lowest, median or highest of the priced offers [USD]; None if unsold."""
        return _OF[end]([offer.usd for offer in self.priced]) if self.offers else None


def needs(scenario: Scenario, models: Mapping[str, Model]) -> tuple[Need, ...]:
    """Return what every stage, and every job that encodes text, would ask of a seller in a month."""
    context = Context(scenario=scenario, models=models)
    stages = (_of_stage(stage, context) for stage in scenario.serving.stages)
    return (*stages, *(_of_job(job, context) for job in scenario.batch if job.task == "encode"))


def _of_stage(stage: Stage, context: Context) -> Need:
    requests, text = monthly_requests(context.scenario), tokens.of_stage(stage, context)
    if isinstance(stage, GenerateStage):
        if stage.beams > 1:
            return Need(name=stage.name, task=stage.task, model=stage.model, refused="nobody sells a search by beams")
        cached = text.shared if stage.prefix_tokens >= CACHED_FROM else 0.0
        return Need(
            name=stage.name, task=stage.task, model=stage.model, kind="llm", read=text.read * requests,
            cached=cached * requests, written=text.written * requests,
        )  # fmt: skip
    if not isinstance(stage, EncodeStage):
        return Need(name=stage.name, task=stage.task, refused=_refused(stage))
    model = context.models[stage.model]
    pairs = stage.tokens == "pair" or (isinstance(model, TransformerModel) and model.head == "classification")
    searches = search_units(stage.sequences, context.scenario.tokens(stage.tokens)) if pairs else 0
    return Need(
        name=stage.name, task=stage.task, model=stage.model, kind="rerank" if pairs else "text-embedding",
        read=text.read * requests, searches=searches * tokens.asking(stage, context) * requests,
    )  # fmt: skip


def _refused(stage: Stage) -> str:
    if isinstance(stage, HostStage):
        return "host work stays with you"
    if isinstance(stage, RetrieveStage | FetchStage):
        return "your own vectors and rows: databases that sell this are in no table here"
    return OWN_IDS


def _of_job(job: BatchJob, context: Context) -> Need:
    scenario = context.scenario
    if not isinstance(context.models[job.model or ""], TransformerModel):
        return Need(name=job.name, task="batch encode", model=job.model or "", refused=OWN_IDS)
    texts = scenario.amount(job.items, job.every) * MONTH_S / job.every
    return Need(
        name=job.name, task="batch encode", model=job.model or "", kind="text-embedding",
        read=texts * scenario.tokens(job.tokens),
    )  # fmt: skip


def search_units(documents: int, document_tokens: int) -> int:
    """Return the search units of one request that brings so many documents of so many tokens, query included.

    Examples
    --------
    >>> search_units(23, 512), search_units(100, 256), search_units(101, 256)
    (1, 1, 2)
    """
    return math.ceil(documents * math.ceil(document_tokens / DOCUMENT_TOKENS) / SEARCH_DOCUMENTS)


def parts(
    wanted: Sequence[Need], prices: Sequence[ApiPrice], today: date, chosen: Sequence[str] = (),
    own_usd: Mapping[str, float] | None = None,
) -> tuple[Part, ...]:  # fmt: skip
    """Return each need with its offers.

    Parameters
    ----------
    today
        Day from which the age of a price is counted.
    chosen
        Sellers' names of models that are priced instead of those nearest to the scenario's.
    own_usd
        What the device lines of each need cost [USD/month].

    Raises
    ------
    UnknownNameError
        For a chosen model that is in no table.
    """
    known = {price.model.casefold() for price in prices}
    for name in chosen:
        if name.casefold() not in known:
            raise UnknownNameError("hosted model", name, {price.model for price in prices})
    names = frozenset(name.casefold() for name in chosen)
    return tuple(
        Part(
            need=need, offers=tuple(sorted(_offers(need, prices, today, names), key=_rank)),
            own_usd=None if own_usd is None else own_usd.get(need.name),
        )
        for need in wanted
    )  # fmt: skip


def _rank(offer: Offer) -> tuple[int, float, str]:
    return RELATIONS.index(offer.relation), offer.usd, offer.provider


def _offers(need: Need, prices: Sequence[ApiPrice], today: date, chosen: frozenset[str]) -> Iterator[Offer]:
    """Yield the offers whose prices cover all that a need asks for."""
    if need.kind is None:
        return
    sold = [price for price in prices if price.what.startswith(need.kind)]
    likest = nearest(need.model, {price.model_profile for price in sold if price.model_profile})
    for found in _grouped(sold):
        usd = _usd(need, found)
        if usd is None:
            continue
        first = next(iter(found.values()))
        relation: Relation = "another model"
        if first.model.casefold() in chosen:
            relation = "chosen"
        elif first.model_profile == need.model:
            relation = "same model"
        elif need.kind == "llm" and likest is not None and first.model_profile == likest:
            relation = "nearest name"
        old = any((today - price.day).days > STALE_DAYS for price in found.values())
        yield Offer(
            provider=first.provider, model=first.model, relation=relation, usd=usd, prices=tuple(found.values()),
            flags=("older than a year",) if old else (),
        )  # fmt: skip


def nearest(model: str, known: Iterable[str]) -> str | None:
    """Return the known name nearest to `model`: of its family the one nearest in size, else the one spelled most alike.

    Examples
    --------
    >>> nearest("qwen3-1.7b", ["qwen3-14b", "qwen3-8b", "qwen2.5-7b"]), nearest("my-own", ["qwen3-8b"])
    ('qwen3-8b', None)
    """
    names = sorted(known)
    family = [name for name in names if name.split("-")[0] == model.split("-", maxsplit=1)[0]]
    if family:
        return min(family, key=lambda name: abs(math.log(_billions(name) / _billions(model))))
    return next(iter(difflib.get_close_matches(model, names, 1, ALIKE)), None)


def _billions(name: str) -> float:
    """Return the parameters that a name says, "llama-3.1-70b" 70; 1 where it says none."""
    found = re.findall(r"(\d+(?:\.\d+)?)b\b", name)
    return float(found[0]) if found and float(found[0]) else 1.0


def _grouped(sold: Iterable[ApiPrice]) -> Iterator[dict[str, ApiPrice]]:
    """Yield the newest price of each thing that one seller charges for one model, by what and unit."""
    groups: dict[tuple[str, str], dict[str, ApiPrice]] = {}
    for price in sold:
        found = groups.setdefault((price.provider.casefold(), price.model), {})
        key = f"{price.what}, {price.unit}"
        if key not in found or price.day > found[key].day:
            found[key] = price
    yield from groups.values()


def _usd(need: Need, found: Mapping[str, ApiPrice]) -> float | None:
    """Return what a month of a need costs at one seller's prices [USD]; None where they do not cover it."""

    def price(what: str, unit: str = "1M tokens") -> float | None:
        return found[f"{what}, {unit}"].usd if f"{what}, {unit}" in found else None

    if need.kind != "llm":
        by_token, by_search = price(str(need.kind)), price(str(need.kind), "1k searches")
        if by_token is not None:
            return by_token * need.read / 1e6
        return None if by_search is None else by_search * need.searches / 1e3
    read, written, cached = price("llm-input"), price("llm-output"), price("llm-cached-input")
    if read is None or written is None:
        return None
    cached = read if cached is None else cached
    return (read * (need.read - need.cached) + cached * need.cached + written * need.written) / 1e6
