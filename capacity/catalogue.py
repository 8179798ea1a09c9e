"""Names to validated documents: the one place that turns `a100-sxm-80gb` or a path into a frozen object."""

from __future__ import annotations

from pathlib import Path

from capacity import documents
from capacity.errors import InputError, Problem, suggestion
from capacity.spec.hardware import Hardware
from capacity.spec.model import MODEL_FAMILIES, Model, TransformerModel


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
        raise InputError([Problem(document.where(("family",)), f"unknown family; {suggestion(str(family), MODEL_FAMILIES)}")])
    return documents.validated(document, MODEL_FAMILIES[family])


def _from_huggingface(path: Path, document: documents.Document) -> TransformerModel:
    folder = path.resolve().parent.name if path.stem == "config" else path.stem
    name = "".join(c if c.isalnum() or c in "._-" else "-" for c in folder.lower()).lstrip("._-") or "model"
    return TransformerModel(
        id=name[:80], name=str(document.data.get("_name_or_path") or folder), source=str(path), config=document.data
    )
