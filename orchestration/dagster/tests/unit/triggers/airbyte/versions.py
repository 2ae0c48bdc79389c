"""What older versions of this project left behind."""

from __future__ import annotations

import json
from itertools import accumulate, pairwise


def as_version_1(text: str) -> str:
    """As release 0.1 wrote it: jobs by id and second, without server and number of an event."""
    fields = json.loads(text)
    by_second: dict[int, list[int]] = {}
    for second, *distances in fields["seen"]:
        numbers = [number for number in distances if isinstance(number, int)]
        by_second.setdefault(second, []).extend(accumulate(numbers))
    fields["seen"] = [
        [second, *(b - a for a, b in pairwise([0, *sorted(ids)]))] for second, ids in sorted(by_second.items())
    ]
    return json.dumps({**{name: fields[name] for name in fields if name not in ("server", "stored")}, "version": 1})
