"""SARIF 2.1.0, for code scanning: one run, places relative to the repository, stable fingerprints.

https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from archcost.integrations.checking.checked import Checked
from archcost.integrations.checking.codes import CODES, Code
from archcost.integrations.checking.findings import Failure, Finding
from archcost.integrations.checking.places import Place
from archcost.report.data import versions
from archcost.report.text import well_formed

__all__ = ["report"]

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_ROOT = "%SRCROOT%"


def report(result: Checked) -> str:
    """The log file; a model that failed is a notification of the run."""
    codes = sorted({one.code for one in result} | set(result.codes))
    driver = {
        "name": "archcost",
        "semanticVersion": versions()["archcost"],
        "rules": [_rule(CODES[code]) for code in codes],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "originalUriBaseIds": {_ROOT: {"description": {"text": "the root of the repository"}}},
        "invocations": [
            {
                "executionSuccessful": not result.failures,
                "toolExecutionNotifications": [_notification(one) for one in result.failures],
            }
        ],
        "results": [_result(one, codes.index(one.code)) for one in result],
    }
    log = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}
    return well_formed(json.dumps(log, indent=2, ensure_ascii=False, allow_nan=False))


def _rule(code: Code) -> dict[str, Any]:
    return {
        "id": code.code,
        "name": "".join(part.capitalize() for part in code.name.split("-")),
        "shortDescription": {"text": code.meaning},
        "fullDescription": {"text": code.help},
        "help": {"text": f"{code.help} archcost check --explain {code.code} prints this."},
        "defaultConfiguration": {"level": code.level},
        "properties": {"tags": ["performance"]},
    }


def _result(one: Finding, index: int) -> dict[str, Any]:
    logical = [{"fullyQualifiedName": name, "kind": "module"} for name in one.modules if name]
    location: dict[str, Any] = {"logicalLocations": logical} if logical else {}
    if one.place is not None:
        location |= _physical(one.place)
    text = one.text if one.place is not None else f"{one.where}: {one.text}"
    related = [
        {"id": number, **_physical(at.place), "message": {"text": at.text}}
        for number, at in enumerate(one.related, 1)
    ]
    return {
        "ruleId": one.code,
        "ruleIndex": index,
        "level": one.level,
        "message": {"text": text},
        "locations": [location] if location else [],
        **({"relatedLocations": related} if related else {}),
        "partialFingerprints": {"archcost/v1": one.fingerprint},
    }


def _physical(place: Place) -> dict[str, Any]:
    region = {"startLine": place.line, **({"startColumn": place.column} if place.column else {})}
    artifact = {"uri": quote(well_formed(place.file)), "uriBaseId": _ROOT}
    return {"physicalLocation": {"artifactLocation": artifact, "region": region}}


def _notification(one: Failure) -> dict[str, Any]:
    where = {} if one.place is None else {"locations": [_physical(one.place)]}
    return {"level": "error", "message": {"text": f"{one.model}: {one.text}"}, **where}
