// Publishes CloudEvents from standard input to Kafka, with Kafka's own client.
// See README.md in this folder; produce.py and produce.mjs do the same.

import static java.nio.charset.StandardCharsets.ISO_8859_1;
import static java.nio.charset.StandardCharsets.UTF_8;

import com.fasterxml.jackson.core.json.JsonWriteFeature;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.json.JsonMapper;
import java.io.*;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public class Produce {
    record Event(String id, ProducerRecord<byte[], byte[]> record) {}

    static final int WINDOW = 100; // events that are sent and not acknowledged, at most
    static final byte[] END = {};
    static final JsonMapper JSON = JsonMapper.builder()
            .enable(DeserializationFeature.USE_BIG_DECIMAL_FOR_FLOATS)
            .enable(JsonWriteFeature.ESCAPE_NON_ASCII) // else half a surrogate pair could not be written
            .build();
    static final PrintStream OUT = new PrintStream(new FileOutputStream(FileDescriptor.out), true, UTF_8);
    static final BlockingQueue<byte[]> LINES = new ArrayBlockingQueue<>(WINDOW);

    static List<String> options;
    static KafkaProducer<byte[], byte[]> producer;

    // The client calls settle() in a thread of its own.
    static final AtomicInteger inFlight = new AtomicInteger();
    static final Queue<Event> failed = new ConcurrentLinkedQueue<>(); // to be sent again, in this order
    static volatile boolean lost;

    static boolean given(String option) {
        return options.contains(option);
    }

    static String value(String option, String otherwise) {
        return given(option) ? options.get(options.indexOf(option) + 1) : otherwise;
    }

    static void connect() {
        producer = new KafkaProducer<>(Map.of(
                "bootstrap.servers", options.get(0),
                "acks", "all",
                "enable.idempotence", true,
                "compression.type", value("--compression", "none"),
                "max.request.size", 8 << 20, // the broker decides
                "max.block.ms", 30_000,
                "request.timeout.ms", 10_000,
                "delivery.timeout.ms", given("--retry-forever") ? Integer.MAX_VALUE : 30_000),
                new ByteArraySerializer(), new ByteArraySerializer());
    }

    static void read() {
        // Latin-1 maps each byte to one character.
        try (var in = new Scanner(System.in, ISO_8859_1).useDelimiter("\n")) {
            while (in.hasNext()) {
                String line = in.next();
                if (!line.isBlank()) LINES.put(line.getBytes(ISO_8859_1));
            }
            LINES.put(END);
        } catch (InterruptedException error) {
            throw new IllegalStateException(error);
        }
    }

    static Event eventOf(byte[] line) throws IOException {
        JsonNode event = JSON.readTree(line);
        if (!event.isObject()) throw new IOException("not an object");
        byte[] value = line;
        var headers = new HashMap<>(Map.of("content-type", "application/cloudevents+json"));
        if (given("--binary")) {
            value = event.hasNonNull("data") ? JSON.writeValueAsBytes(event.get("data")) : null;
            headers.put("content-type", "application/json");
            for (var member : event.properties()) {
                boolean attribute = !Set.of("data", "datacontenttype").contains(member.getKey());
                if (attribute && !member.getValue().isNull()) headers.put("ce_" + member.getKey(), member.getValue().asText());
            }
        }
        byte[] key = given("--no-key") || !event.hasNonNull("subject") ? null : event.get("subject").asText().getBytes(UTF_8);
        Integer partition = given("--partition") ? Integer.valueOf(value("--partition", null)) : null;
        var record = new ProducerRecord<>(options.get(1), partition, key, value);
        headers.forEach((name, text) -> record.headers().add(name, text.getBytes(UTF_8)));
        return new Event(event.path("id").asText("?"), record);
    }

    static void send(Event event) {
        inFlight.incrementAndGet();
        try {
            producer.send(event.record, (metadata, error) -> settle(event, metadata, error));
        } catch (KafkaException error) {
            settle(event, null, error);
        }
    }

    static void settle(Event event, RecordMetadata metadata, Exception error) {
        if (error == null) {
            OUT.println(event.id + " " + metadata.partition() + ":" + metadata.offset());
        } else {
            System.err.println(event.id + " failed: " + error);
            if (given("--retry-forever")) failed.add(event);
            else lost = true;
        }
        inFlight.decrementAndGet();
    }

    /** Runs once no other record is in flight. After a fatal error a producer refuses all records, so this creates a new one. */
    static void sendFailedAgain() throws InterruptedException {
        Thread.sleep(500);
        producer.close(Duration.ZERO);
        connect();
        var again = List.copyOf(failed);
        failed.clear();
        again.forEach(Produce::send);
    }

    public static void main(String[] arguments) throws InterruptedException {
        options = List.of(arguments);
        connect();
        var reader = new Thread(Produce::read);
        reader.setDaemon(true);
        reader.start();
        for (boolean more = true; more || inFlight.get() > 0 || !failed.isEmpty();) {
            if (inFlight.get() == 0 && !failed.isEmpty()) sendFailedAgain();
            boolean room = more && inFlight.get() < WINDOW && failed.isEmpty();
            if (!room) Thread.sleep(1);
            byte[] line = room ? LINES.poll(5, TimeUnit.MILLISECONDS) : null;
            if (line == END) more = false;
            if (line == null || line == END) continue;
            try {
                send(eventOf(line));
            } catch (IOException error) {
                System.err.println("? failed: " + error);
                lost = true;
            }
        }
        producer.close();
        System.exit(lost ? 1 : 0);
    }
}
