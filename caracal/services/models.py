"""What bodies share: bounded text, strict types, answers made of rows or aggregates."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from caracal.events.base import Aggregate


def printable(text: str) -> str:
    """Refuse what no database and no encoding takes."""
    # A NUL cannot be stored, a lone surrogate cannot be written as UTF-8.
    if "\x00" in text:
        raise ValueError("must not contain NUL")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("must be valid Unicode") from None
    return text


Text = Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(printable)]
Name = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(printable)]


class Body(BaseModel):
    """A request body. Types are exact; unknown members are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")

    def given(self) -> dict[str, Any]:
        """Return the members that the caller sent, explicit nulls included."""
        return self.model_dump(exclude_unset=True)


class Answer(BaseModel):
    """An answer's body, made of a read model's row or of the aggregate itself."""

    model_config = ConfigDict(extra="ignore")

    @classmethod
    def of(cls, thing: Aggregate) -> Self:
        """Return the answer for an aggregate just saved: what a later GET will show."""
        return cls.model_validate(
            {
                **vars(thing),
                "id": thing.aggregate_id,
                "created_at": thing.created_on,
                "updated_at": thing.modified_on,
            }
        )
