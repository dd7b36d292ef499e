"""What requests ask of the pages: queries and forms, as models that /openapi.json describes too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeVar

from flask import abort, request
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
)

from backend import PROGRAM
from backend.exchange.export.format_names import DOWNLOADS
from backend.options import in_words

Kind = Literal["html", "text", "json"]
DIGITS = 11  # of the longest number that a request may name


class Query(BaseModel):
    """The query of a request; unknown names are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class KindQuery(Query):
    """The format of an answer."""

    format: Kind | None = Field(
        default=None, description="Wins over the header Accept, which decides without it."
    )


def number(written: str) -> int | None:
    """Return the number in a text, None if it cannot be the id of a row."""
    fits = written.isascii() and written.isdigit() and len(written) <= DIGITS
    return int(written) if fits else None


def _first_scan(value: object) -> int:
    """Return the number in a text; 1 for any other text, such as that of an outdated link."""
    found = number(str(value))
    return 1 if found is None else found


def _round(value: object) -> int:
    found = number(str(value))
    if found is None:
        raise ValueError("expected the number of a round")
    return found


class PageQuery(KindQuery):
    """Which part of a project's page is shown, as HTML."""

    start: Annotated[int, BeforeValidator(_first_scan), WithJsonSchema({"type": "string"})] = Field(
        default=1,
        alias="from",
        description="The position of the queue to begin with; anything but a number means 1.",
    )
    versions: str = Field(default="", description="`all` lists every version, not the newest only.")


class RoundsQuery(Query):
    """Which rounds stand in the audit record."""

    round: Annotated[int, Field(ge=0, lt=10**DIGITS), BeforeValidator(_round)] | None = Field(
        default=None, description="The only round to tell about."
    )


class RollbackForm(BaseModel):
    """The form of /rollback."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: str = Field(description="The version to go back to.")


class ConfirmForm(BaseModel):
    """The form of /confirm."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    task: Annotated[int, Field(ge=0, lt=10**DIGITS)] = Field(
        description="The scan whose label is right."
    )


def _download(value: str) -> str:
    if value not in DOWNLOADS:
        known = ", ".join(DOWNLOADS)
        raise ValueError(f"expected one of {known}; `{PROGRAM} export` writes others too")
    return value


class ExportForm(BaseModel):
    """The form of /export."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    to: Annotated[
        str, AfterValidator(_download), WithJsonSchema({"type": "string", "enum": [*DOWNLOADS]})
    ] = Field(description="The format.")


Asked = TypeVar("Asked", bound=BaseModel)


def asked(query: type[Asked]) -> Asked:
    """Return the query of this request; answer 400 for a wrong one, with its first mistake."""
    return _read(query, request.args.to_dict())


def sent(form: type[Asked]) -> Asked:
    """Return the form of this request; answer 400 for a wrong one, with its first mistake."""
    return _read(form, request.form.to_dict())


def _read(model: type[Asked], given: Mapping[str, str]) -> Asked:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        name = str(problem["loc"][0])
        if name not in given:
            abort(400, f"{name} is missing.")
        abort(400, f"{name} is {given[name][:40]!r}: {in_words(problem['msg'])}.")
