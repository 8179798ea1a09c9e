"""Dated prices of models that others host: what a token or a search costs, row by row as sellers list them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from capacity.spec.prices import Dated
from capacity.spec.quantity import Id, Usd

Sold = Literal["text-embedding", "rerank", "llm-input", "llm-cached-input", "llm-output"]
Unit = Literal["1M tokens", "1k searches"]
SEARCH_DOCUMENTS = 100
"""Documents that the query of one search unit may bring (cohere.com/pricing, as read at developersdigest.tech on
2026-10-18)."""
DOCUMENT_TOKENS = 510
"""Tokens beyond which a reranker cuts a document (Cohere's models page, seen 2026-10-18 at developersdigest.tech); that
each piece counts as a document of the search is assumed."""


class ApiPrice(Dated):
    """One row of a table of hosted API prices (CSV columns have these names)."""

    provider: Annotated[str, Field(min_length=1, max_length=80)]
    model: Annotated[str, Field(min_length=1, max_length=120)]
    """What the seller calls it."""
    model_profile: Id | None = None
    """Profile of the model whose weights it is, where they are the same; absent for all others."""
    what: Sold
    unit: Unit = "1M tokens"
    usd: Annotated[Usd, Field(gt=0)]
    """Price of one unit [USD]."""
    quality: Literal["published", "secondary", "assumed"]
    """published = the seller's own page; secondary = somebody who read it; assumed = a stand-in of yours."""

    @model_validator(mode="after")
    def _sold_so(self) -> ApiPrice:
        if self.unit == "1k searches" and self.what != "rerank":
            raise ValueError(f"only rerank is sold by searches; write unit 1M tokens for {self.what}")
        return self
