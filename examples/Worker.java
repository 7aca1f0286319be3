// usage: java -cp 'LIBS/*' Worker.java BOOTSTRAP OPERATION_ID [TOPIC]   (org.apache.kafka:kafka-clients)
import java.time.Instant;
import java.util.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.serialization.StringSerializer;

public class Worker {
    static void publish(Producer<String, String> producer, String topic, String operation, String kind, String data) throws Exception {
        var event = """
            {"specversion":"1.0","id":"%s","source":"/workers/example","type":"opledger.%s.v1","subject":"%s","time":"%s","data":%s}"""
            .formatted(UUID.randomUUID(), kind, operation, Instant.now(), data);
        var record = new ProducerRecord<>(topic, operation, event);
        record.headers().add("content-type", "application/cloudevents+json".getBytes());
        var acknowledged = producer.send(record).get();
        System.out.println(acknowledged.partition() + ":" + acknowledged.offset());
    }

    public static void main(String[] arguments) throws Exception {
        if (arguments.length < 2 || arguments.length > 3) {
            System.err.println("usage: java -cp 'LIBS/*' Worker.java BOOTSTRAP OPERATION_ID [TOPIC]");
            System.exit(1);
        }
        var topic = arguments.length > 2 ? arguments[2] : "opledger.events";
        var serializer = new StringSerializer();
        try (var producer = new KafkaProducer<>(Map.<String, Object>of("bootstrap.servers", arguments[0]), serializer, serializer)) {
            publish(producer, topic, arguments[1], "operation.created", """
                {"request":{"uri":"/v1/slices/A","method":"PUT","body":"{\\"action\\":\\"update\\"}"}}""");
            publish(producer, topic, arguments[1], "operation.started", "{}");
        }
    }
}
