"""usage: worker.py BOOTSTRAP OPERATION_ID [TOPIC]   (pip install confluent-kafka)"""
import json, sys, uuid
from datetime import datetime, timezone
from confluent_kafka import KafkaException, Producer

if len(sys.argv) not in (3, 4): sys.exit(__doc__)
bootstrap, operation, topic = (*sys.argv[1:], "opledger.events")[:3]
producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "enable.idempotence": True})

def acknowledged(error, record):
    if error: raise KafkaException(error)
    print(f"{record.partition()}:{record.offset()}")

def publish(kind, data):
    event = {"specversion": "1.0", "id": str(uuid.uuid4()), "source": "/workers/example", "type": f"opledger.{kind}.v1",
             "subject": operation, "time": datetime.now(timezone.utc).isoformat(), "data": data}
    producer.produce(topic, key=operation, value=json.dumps(event), on_delivery=acknowledged,
                     headers={"content-type": "application/cloudevents+json"})
    producer.flush()

publish("operation.created", {"request": {"uri": "/v1/slices/A", "method": "PUT", "body": '{"action":"update"}'}})
publish("operation.started", {})
