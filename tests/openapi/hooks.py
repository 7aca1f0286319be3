"""What schemathesis cannot know of the ledger: which operations there are, and
what a position and a cursor are."""

import datetime
import json
import os

import schemathesis
from hypothesis import strategies as st

known = json.loads(os.environ["KNOWN"])

# Any name may be asked for; of these something is known.
ids = st.from_regex(r"\A[A-Za-z0-9._~-]{1,40}\Z").filter(lambda name: name not in ("log", ".", ".."))
schemathesis.openapi.format("operation-id", st.sampled_from(known["operations"]) | ids)

log, _, positions = known["position"].partition(";")
schemathesis.openapi.format("ledger-position", st.sampled_from([known["position"], f"{log};"]))

# An event may not be ahead of the ledger's clock.
past = st.datetimes(min_value=datetime.datetime(1, 1, 2), max_value=datetime.datetime(2024, 1, 1))
schemathesis.openapi.format("date-time", past.map(lambda time: time.isoformat() + "Z"))


@schemathesis.hook
def before_call(context, case, kwargs):
    """A cursor comes out of a Link, whole; none can be made up."""
    is_to_be_taken = case.meta is None or case.meta.generation.mode.is_positive
    if is_to_be_taken and case.query and "cursor" in case.query:
        case.query = {name: value for name, value in case.query.items() if name != "cursor"}
