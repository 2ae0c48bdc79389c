"""A reader in a process of its own that joins the layers of a lakehouse again and again, until it is stopped.

Each read is a line of JSON: its kind, when it began, and the rows or the error.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

#: Seconds between the beginnings of two reads, if they are not slower.
PAUSE = {"as of": 0.05, "plain": 0.5}
STATE = "max(generation) as generation, count(*) as n, count_if(fault <> 0) as bad"
QUERY = f"""
select b.generation, b.n, b.bad, s.generation, s.n, s.bad, g.generation, g.n, g.bad
from (select {STATE} from bronze.stg_orders{{at}}) as b
cross join (select {STATE} from silver.orders{{at}}) as s
cross join gold.revenue{{at}} as g
"""


def read(kind: str, at: str, lock: threading.Lock) -> None:
    """Read with one connection, and print each result."""
    import os

    import requests
    import trino

    session = requests.Session()
    session.trust_env = False
    session.verify = os.environ["LAKEHOUSE_TRINO_CA_BUNDLE"]
    user = os.environ["LAKEHOUSE_TRINO_USER"]
    connection = trino.dbapi.connect(
        host=os.environ["LAKEHOUSE_TRINO_HOST"],
        port=int(os.environ["LAKEHOUSE_TRINO_PORT"]),
        http_scheme="https",
        user=user,
        auth=trino.auth.BasicAuthentication(user, os.environ["LAKEHOUSE_TRINO_PASSWORD"]),
        http_session=session,
        verify=os.environ["LAKEHOUSE_TRINO_CA_BUNDLE"],
        catalog=os.environ["LAKEHOUSE_TRINO_CATALOG"],
        source="layer-reader",
    )
    while True:
        began, found = time.time(), dict[str, Any]()
        try:
            cursor = connection.cursor()
            cursor.execute(QUERY.format(at=at))
            found["rows"] = cursor.fetchall()
        except Exception as error:
            found["error"] = f"{type(error).__name__}: {error}"
        with lock:
            print(json.dumps({"kind": kind, "began": began, **found}), flush=True)
        time.sleep(max(0.0, began + PAUSE[kind] - time.time()))


def main() -> None:
    """Read as of some seconds ago, and as the tables are, until the file in the second argument exists."""
    seconds, stop = sys.argv[1:]
    as_of = f" for timestamp as of current_timestamp - interval '{seconds}' second"
    lock = threading.Lock()
    for kind, at in (("as of", as_of), ("plain", "")):
        threading.Thread(target=read, args=(kind, at, lock), daemon=True).start()
    while not Path(stop).exists():
        time.sleep(0.1)
    with lock:
        sys.stdout.flush()


if __name__ == "__main__":
    main()
