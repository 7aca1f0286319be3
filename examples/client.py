"""usage: client.py URL OPERATION_ID   (nothing but Python: publish, watch, wait)"""
import json, sys, threading, urllib.error, urllib.request, uuid
from datetime import datetime, timezone

if len(sys.argv) != 3: sys.exit(__doc__)
base, operation = sys.argv[1:]
url = f"{base}/v1/operations/{operation}"

def publish(kind, data):
    event = {"specversion": "1.0", "id": str(uuid.uuid4()), "source": "/workers/example", "type": f"opledger.{kind}.v1",
             "subject": operation, "time": datetime.now(timezone.utc).isoformat(), "data": data}
    # Where this is answered with 202, the event is durable. Sending the same event again is harmless.
    request = urllib.request.Request(f"{base}/v1/events", json.dumps(event).encode(),
                                     {"content-type": "application/cloudevents+json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.headers["ledger-position"]

def wait():
    """The document once the operation has ended, also if it does not exist yet."""
    etag = None
    while True:
        headers = {"prefer": "wait=30", **({"if-none-match": etag} if etag else {})}
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
                etag, document = answer.headers["etag"], json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code not in (304, 404): raise
            continue
        if document["status"] in ("completed", "failed", "canceled"): return document

def watch():
    """Every state until the end. After an error: once more, with Last-Event-ID."""
    request = urllib.request.Request(url, headers={"accept": "text/event-stream"})
    kind = ""
    with urllib.request.urlopen(request, timeout=60) as stream:
        for line in stream:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "event": kind = value
            if name == "data" and kind == "document": print("watched: " + json.loads(value)["status"] + "\n", end="", flush=True)

watcher = threading.Thread(target=watch)
watcher.start()
publish("operation.created", {"request": {"uri": "/v1/slices/A", "method": "PUT", "body": '{"action":"update"}'}})
publish("operation.completed", {"response": {"status_code": 200}})
print("waited: " + wait()["status"] + "\n", end="")
watcher.join()
