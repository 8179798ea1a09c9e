"""Names to validated documents: the one place that turns `a100-sxm-80gb` or a path into a frozen object."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from capacity import documents
from capacity.documents import Document
from capacity.errors import InputError, Problem, UnknownNameError, suggestion
from capacity.problems import Location
from capacity.spec.calibration import Calibration, Shared
from capacity.spec.convergence import Convergence
from capacity.spec.hardware import Hardware
from capacity.spec.levers import QualityNotes
from capacity.spec.model import MODEL_FAMILIES, IndexPoints, Model, TransformerModel
from capacity.spec.prices import Rates
from capacity.spec.scenario import Domain, Scenario
from capacity.timing.residual import Trees
from capacity.work.huggingface import ConfigError
from capacity.work.models import parameters

SHIPPED = "hardware_profiles/calibrations"
"""Folder of the calibrations that come with the product; a user's own lie in ./calibrations."""
Stamp: TypeAlias = tuple[int, int]
"""Time of the last change [ns] and size [byte] of a file."""


def hardware(name: str) -> Hardware:
    """Return the hardware profile called `name`, or in the file `name`."""
    path = documents.find("hardware_profiles", name)
    return _hardware(path, _stamp(path))


@lru_cache(maxsize=512)
def _hardware(path: Path, _: Stamp) -> Hardware:
    return documents.validated(documents.read(path), Hardware)


def model(name: str) -> Model:
    """Return the model called `name`, in the YAML file `name`, or described by a Hugging Face `config.json`."""
    path = documents.find("model_profiles", name)
    return _model(path, _stamp(path))


@lru_cache(maxsize=256)
def _model(path: Path, _: Stamp) -> Model:
    document = documents.read(path)
    if "model_type" in document.data:
        return _counted(_from_huggingface(path, document), document, ())
    family = document.data.get("family", "transformer")
    if not isinstance(family, str) or family not in MODEL_FAMILIES:
        what = f"unknown family {family!r:.60}; {suggestion(str(family)[:60], MODEL_FAMILIES)}"
        raise InputError([Problem(document.where(("family",)), what)])
    place = ("body",) if family == "id-ranker" else ("config",)
    return _counted(documents.validated(document, MODEL_FAMILIES[family]), document, place)


def index_points(name: str) -> IndexPoints:
    """Return the recalls of an index by search effort called `name`, or in the file `name`."""
    known = documents.catalogue("model_profiles/retrieval")
    return documents.validated(documents.read(documents.find("points", name, known)), IndexPoints)


def _counted(found: Model, document: Document, place: Location) -> Model:
    """Return `found` if its parameters can be counted; else say which field of the config at `place` is wrong."""
    try:
        parameters(found)
    except (ConfigError, UnknownNameError) as error:
        key = error.key if isinstance(error, ConfigError) else error.kind
        where = document.where(("head",) if key == "head" else (*place, key))
        raise InputError([Problem(where, str(error))]) from None
    return found


def _from_huggingface(path: Path, document: Document) -> TransformerModel:
    folder = path.resolve().parent.name if path.stem == "config" else path.stem
    name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in folder.lower()).lstrip("._-")
    title = str(document.data.get("_name_or_path") or folder)
    return TransformerModel(id=name[:80] or "model", name=title, source=str(path), config=document.data)


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
    path = documents.find("prices", name)
    return _rates(path, _stamp(path))


@lru_cache(maxsize=16)
def _rates(path: Path, _: Stamp) -> Rates:
    return documents.validated(documents.read(path), Rates)


def quality_notes() -> QualityNotes:
    """Return what published measurements say levers do to quality."""
    return documents.validated(documents.read(documents.find("levers", "quality")), QualityNotes)


def convergence(name: str) -> Convergence:
    """Return what a benchmark must see until it converges, by batch size."""
    return documents.validated(documents.read(documents.find("convergence", name)), Convergence)


def convergences() -> dict[str, Convergence]:
    """Return every convergence reference by its id."""
    return {name: convergence(str(path)) for name, path in documents.catalogue("convergence").items()}


def shared() -> Shared:
    """Return what holds for all devices until somebody measures."""
    path = documents.find(SHIPPED, "shared")
    return _shared(path, _stamp(path))


@lru_cache(maxsize=4)
def _shared(path: Path, _: Stamp) -> Shared:
    return documents.validated(documents.read(path), Shared)


def _stamp(path: Path) -> Stamp:
    """Return what changes when a file does: a dashboard asks for the same documents at every move of a slider."""
    try:
        known = Path(path).stat()
    except (OSError, ValueError):
        return (0, 0)  # reading it will say why
    return known.st_mtime_ns, known.st_size


@lru_cache(maxsize=256)
def _calibration(path: Path, shipped: bool, _: Stamp, __: Stamp) -> tuple[Calibration, Document]:
    """Return a calibration as it is read from a file and the residuals beside it, whose stamps these are."""
    document = documents.read(path)
    item = documents.validated(document, Calibration)
    return item.with_residuals(Residuals(Path(path).with_suffix(".npz")), shipped=shipped), document


def calibrations(extra: Sequence[str] = ()) -> list[tuple[Calibration, Hardware]]:
    """Return every calibration with the profile it belongs to: the files `extra`, those of ./calibrations, the shipped.

    What an earlier one says about a device hides what a later one says.
    Learned residuals lie beside a document in `<name>.npz` and are read when asked for.
    """
    known = {name: path for name, path in documents.catalogue(SHIPPED).items() if name != "shared"}
    paths = [documents.find(SHIPPED, name, known) for name in extra]
    paths += [*documents.catalogue("calibrations").values(), *known.values()]
    shipped, found = set(known.values()), []
    profiles = documents.catalogue("hardware_profiles")
    for path in dict.fromkeys(paths):
        item, document = _calibration(path, path in shipped, _stamp(path), _stamp(Path(path).with_suffix(".npz")))
        found.append((item, item.profile or _measured(item, document, profiles)))
    return found


class Residuals(Mapping[str, Trees]):
    """Learned residuals by key, from a file that is opened when the first is asked for; empty when there is none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Trees] = {}

    def _names(self) -> set[str]:
        return {name.rpartition(":")[0] for name in self._arrays().files} if self._path.is_file() else set()

    def _arrays(self) -> Any:  # noqa: ANN401  (numpy does not name the type)
        try:
            return np.load(self._path, allow_pickle=False)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise InputError([Problem(str(self._path), f"holds no learned residuals: {error}")]) from None

    def __getitem__(self, key: str) -> Trees:
        """Return the residual of a key.

        Raises
        ------
        KeyError
            When the file does not hold it.
        """
        if key not in self._known:
            if not self._path.is_file():
                raise KeyError(key)
            arrays = self._arrays()
            self._known[key] = Trees.unpacked({part: arrays[f"{key}:{part}"] for part in Trees.PARTS})
        return self._known[key]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys."""
        return iter(sorted(self._names()))

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._names())


def _measured(item: Calibration, document: Document, profiles: Mapping[str, Path]) -> Hardware:
    try:
        path = documents.find("hardware_profiles", item.hardware, profiles)
    except UnknownNameError as error:
        raise InputError([Problem(document.where(("hardware",)), f"hardware: {error}")]) from None
    return _hardware(path, _stamp(path))
