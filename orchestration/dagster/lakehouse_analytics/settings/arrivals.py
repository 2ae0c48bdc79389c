"""Settings of what fills sources besides Airbyte."""

from __future__ import annotations

from pydantic import BaseModel, Field


class ArrivalSettings(BaseModel):
    """The part of `Settings` about `meta.lakehouse.arrives`."""

    files_interval: int = Field(
        30,
        ge=1,
        description="Minimum interval between two ticks of the sensors for files, and of `arrivals_sensor`, in "
        "seconds.",
    )
