"""usage: client.py BASE OPERATION_ID   (with the package `opledger`, which openapi-python-client wrote)"""

import json
import sys
import threading
from datetime import datetime, timedelta, timezone

from opledger import Client
from opledger.api.audit import get_history, list_dead_letters
from opledger.api.events import publish_events
from opledger.api.operations import get_operation, list_operations
from opledger.models import (
    ClusterRequestSent,
    ClusterRequestSentData,
    ClusterResponseReceived,
    ClusterResponseReceivedData,
    EndResponse,
    Error,
    EventData,
    EventRequest,
    LaneResponse,
    ListOperationsFormat,
    Method,
    OperationCreated,
    OperationCreatedData,
    OperationDetailList,
    OperationFailed,
    OperationFailedData,
    OperationIdList,
    OperationStatus,
    RollbackAttempted,
    RollbackAttemptedData,
    RollbackResult,
)

base, operation = sys.argv[1:]
client = Client(base_url=base)
began = datetime.now(timezone.utc)


def about(n):
    """The attributes of the n-th event."""
    return {"id": f"e-{n}", "source": "/generated/python", "subject": operation, "time": began + timedelta(milliseconds=n)}


def publish(body, **attributes):
    answer = publish_events.sync_detailed(client=client, body=body, **attributes)
    assert answer.status_code == 202, answer
    assert answer.parsed.accepted == 1 and len(answer.parsed.positions) == 1, answer
    return answer.headers["ledger-position"]


request = EventRequest(uri="/v1/slices/A", method=Method.PUT, body='{"a":1}')
token = publish(OperationCreated(data=OperationCreatedData(request=request), **about(0)))

# Read: what was just written.
first = get_operation.sync_detailed(operation, client=client, ledger_position=token)
assert first.status_code == 200 and first.parsed.status == OperationStatus.UNEXECUTED, first
assert first.parsed.request.body == '{"a":1}', first
same = get_operation.sync_detailed(operation, client=client, if_none_match=first.headers["etag"])
assert same.status_code == 304, same
missing = get_operation.sync("missing", client=client)
assert isinstance(missing, Error) and missing.error_code == "030001", missing

# List: identifiers, documents, and nothing new.
ids = list_operations.sync_detailed(client=client, ledger_position=token)
assert isinstance(ids.parsed, OperationIdList) and operation in ids.parsed.operation_ids, ids
details = list_operations.sync(
    client=client,
    format_=ListOperationsFormat.DETAIL_LIST,
    status=[OperationStatus.UNEXECUTED],
    limit=5,
    ledger_position=token,
)
assert isinstance(details, OperationDetailList), details
assert [one for one in details.operations if one.operation_id == operation], details
again = list_operations.sync_detailed(client=client, if_none_match=ids.headers["etag"])
assert again.status_code == 304, again

# Wait: for a change of what is known.
waited = []
waiter = threading.Thread(
    target=lambda: waited.append(
        get_operation.sync_detailed(operation, client=client, if_none_match=first.headers["etag"], prefer="wait=30")
    )
)
waiter.start()
attributes = about(1)
publish(
    EventData(),
    ce_specversion="1.0",
    ce_id=attributes["id"],
    ce_source=attributes["source"],
    ce_type="opledger.operation.started.v1",
    ce_subject=operation,
    ce_time=attributes["time"].isoformat(),
)
waiter.join()
assert waited[0].status_code == 200 and waited[0].parsed.status == OperationStatus.EXECUTING, waited
assert waited[0].headers["preference-applied"] == "wait=30", waited

lane = {"cluster_id": "4", "request": request}
refused = LaneResponse(status_code=500, body="no")
publish(ClusterRequestSent(data=ClusterRequestSentData(**lane), **about(2)))
publish(ClusterResponseReceived(data=ClusterResponseReceivedData(cluster_id="4", response=refused), **about(3)))
undone = RollbackAttemptedData(response=LaneResponse(status_code=200), **lane)
publish(RollbackAttempted(data=undone, **about(4)))
end = EndResponse(status_code=500, body="failed")
token = publish(OperationFailed(data=OperationFailedData(response=end), **about(5)))

last = get_operation.sync(operation, client=client, ledger_position=token)
assert last.rollbacks.result == RollbackResult.COMPLETED and last.response.body == "failed", last
history = get_history.sync(operation, client=client, ledger_position=token)
assert [entry.event.id for entry in history.events] == [f"e-{n}" for n in range(6)], history
assert history.events[0].event.data["request"]["uri"] == "/v1/slices/A", history
assert list_dead_letters.sync(client=client).dead_letters == []
print(json.dumps(last.to_dict()))
