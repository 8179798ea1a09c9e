"""Names to validated documents: the one place that turns `a100-sxm-80gb` or a path into a frozen object."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from capacity import documents
from capacity.documents import Document
from capacity.errors import InputError, Problem, UnknownNameError, suggestion
from capacity.spec.calibration import Calibration, Shared
from capacity.spec.hardware import Hardware
from capacity.spec.model import MODEL_FAMILIES, Model, TransformerModel
from capacity.spec.prices import Rates
from capacity.spec.scenario import Domain, Scenario

SHIPPED = "hardware_profiles/calibrations"
"""Folder of the calibrations that come with the product; a user's own lie in ./calibrations."""


def hardware(name: str) -> Hardware:
    """Return the hardware profile called `name`, or in the file `name`."""
    return documents.validated(documents.read(documents.find("hardware_profiles", name)), Hardware)


def model(name: str) -> Model:
    """Return the model called `name`, in the YAML file `name`, or described by a Hugging Face `config.json`."""
    path = documents.find("model_profiles", name)
    document = documents.read(path)
    if "model_type" in document.data:
        return _from_huggingface(path, document)
    family = document.data.get("family", "transformer")
    if family not in MODEL_FAMILIES:
        raise InputError(
            [Problem(document.where(("family",)), f"unknown family; {suggestion(str(family), MODEL_FAMILIES)}")]
        )
    return documents.validated(document, MODEL_FAMILIES[family])


def _from_huggingface(path: Path, document: Document) -> TransformerModel:
    folder = path.resolve().parent.name if path.stem == "config" else path.stem
    name = "".join(c if c.isalnum() or c in "._-" else "-" for c in folder.lower()).lstrip("._-") or "model"
    return TransformerModel(
        id=name[:80], name=str(document.data.get("_name_or_path") or folder), source=str(path), config=document.data
    )


def scenario_document(base: str | Document, overrides: Sequence[str] = (), settings: Sequence[str] = ()) -> Document:
    """Return the text of a scenario with named overrides and `path=value` settings put over it, in that order.

    Parameters
    ----------
    base
        Id or file of the scenario, or its document when it stands in no file (an upload).
    overrides
        Names of the scenario's own overrides, or of domains of scenarios/domains.
    settings
        Texts such as ``traffic.peak_rate=3000/s``.

    Raises
    ------
    UnknownNameError
        For a scenario or an override nobody wrote; the nearest are named.
    """
    document = base if isinstance(base, Document) else documents.read(documents.find("scenarios", base))
    for override in overrides:
        document = documents.merged(document, _override(document, override))
    for setting in settings:
        document = documents.merged(document, documents.addressed(documents.setting(setting), document))
    return document


def scenario(base: str | Document, overrides: Sequence[str] = (), settings: Sequence[str] = ()) -> Scenario:
    """Return the scenario that `scenario_document` describes, validated."""
    return documents.validated(scenario_document(base, overrides, settings), Scenario)


def _override(base: Document, name: str) -> Document:
    own = base.data.get("overrides")
    if isinstance(own, dict) and isinstance(own.get(name), dict):
        depth = ("overrides", name)
        places = {loc[2:]: place for loc, place in base.places.items() if loc[:2] == depth}
        return documents.addressed(Document(base.name, own[name], places), base)
    domains = documents.catalogue("scenarios/domains")
    if name not in domains:
        raise UnknownNameError("override", name, [*(own if isinstance(own, dict) else ()), *domains])
    document = documents.read(domains[name])
    documents.validated(document, Domain)
    places = {loc[1:]: place for loc, place in document.places.items() if loc[:1] == ("override",)}
    return Document(document.name, document.data["override"], places)


def domain(name: str) -> Domain:
    """Return a domain of scenarios/domains."""
    return documents.validated(documents.read(documents.find("scenarios/domains", name)), Domain)


def rates(name: str) -> Rates:
    """Return a table of energy, storage, network and people rates."""
    return documents.validated(documents.read(documents.find("prices", name)), Rates)


def shared() -> Shared:
    """Return what holds for all devices until somebody measures."""
    return documents.validated(documents.read(documents.find(SHIPPED, "shared")), Shared)


def calibrations(extra: Sequence[str] = ()) -> list[tuple[Calibration, Hardware]]:
    """Return every calibration with the profile it belongs to: the files `extra`, those of ./calibrations, the shipped.

    An earlier calibration of the same hardware and engine hides the later ones.
    """
    paths = [Path(name) if "/" in name or name.endswith(".yaml") else documents.find(SHIPPED, name) for name in extra]
    for kind in ("calibrations", SHIPPED):
        paths += [path for name, path in documents.catalogue(kind).items() if name != "shared"]
    found: dict[tuple[str, str], Calibration] = {}
    for path in paths:
        item = documents.validated(documents.read(path), Calibration)
        found.setdefault((item.hardware, item.engine), item)
    return [(item, item.profile or hardware(item.hardware)) for item in found.values()]
