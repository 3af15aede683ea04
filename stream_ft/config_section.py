"""What every group of settings is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A group of settings; unknown names are errors, so that a typo is not a silent default."""

    model_config = ConfigDict(extra="forbid", validate_default=True)
