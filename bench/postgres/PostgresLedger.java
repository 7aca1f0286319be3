// usage: PostgresLedger BOOTSTRAP TOPIC JDBC_URL
//
// A contender: a ledger that a team would write in a week. Two consumers of one
// group take batches, fold each operation's events at once, and upsert its state and its
// document (JSONB) into PostgreSQL, with the offsets in the same transaction.
// It keeps no history, no lists, no dead letters and sends no notifications.

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.sql.Array;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.time.Duration;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicLongArray;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

public final class PostgresLedger {
    private static final int CONSUMERS = 2;
    private static final int BATCH = 1000;

    private static final String TABLES = """
            CREATE TABLE IF NOT EXISTS operations (
                id text PRIMARY KEY,
                document jsonb,
                state bytea NOT NULL
            ) WITH (fillfactor = 70);
            CREATE TABLE IF NOT EXISTS positions (part int PRIMARY KEY, next_offset bigint NOT NULL);
            """;
    private static final String STATES = "SELECT id, state FROM operations WHERE id = ANY (?)";
    private static final String UPSERT = """
            INSERT INTO operations (id, document, state)
            SELECT id, document::jsonb, state FROM unnest(?::text[], ?::text[], ?::bytea[]) AS new (id, document, state)
            ON CONFLICT (id) DO UPDATE SET document = excluded.document, state = excluded.state""";
    private static final String MOVE = """
            INSERT INTO positions (part, next_offset) VALUES (?, ?)
            ON CONFLICT (part) DO UPDATE SET next_offset = excluded.next_offset""";
    private static final String DOCUMENT = "SELECT document::text FROM operations WHERE id = ?";

    private final String bootstrap, topic, database;
    private final AtomicLongArray committed;
    private final AtomicLong bad = new AtomicLong();
    /** Each reader has its own statement: threads do not share connections. */
    private final ThreadLocal<PreparedStatement> reading = ThreadLocal.withInitial(() -> {
        try {
            return connect().prepareStatement(DOCUMENT);
        } catch (SQLException e) {
            throw new IllegalStateException(e);
        }
    });

    private PostgresLedger(String bootstrap, String topic, String database) {
        this.bootstrap = bootstrap;
        this.topic = topic;
        this.database = database;
        try (KafkaConsumer<byte[], byte[]> consumer = consumer()) {
            committed = new AtomicLongArray(consumer.partitionsFor(topic).size());
        }
    }

    public static void main(String[] arguments) throws Exception {
        PostgresLedger ledger = new PostgresLedger(arguments[0], arguments[1], arguments[2]);
        try (Connection connection = ledger.connect(); Statement statement = connection.createStatement()) {
            statement.execute(TABLES);
        }
        Reads.serve(8, ledger::find, ledger::progress);
        for (int i = 0; i < CONSUMERS; i++) {
            new Thread(() -> {
                try {
                    ledger.consume();
                } catch (Exception e) {
                    e.printStackTrace();
                    Runtime.getRuntime().halt(1);
                }
            }).start();
        }
    }

    private Connection connect() throws SQLException {
        return DriverManager.getConnection(database);
    }

    private KafkaConsumer<byte[], byte[]> consumer() {
        Map<String, Object> settings = Map.of(
                "bootstrap.servers", bootstrap,
                "group.id", topic + "-" + ProcessHandle.current().pid(),
                "enable.auto.commit", false,
                "auto.offset.reset", "earliest",
                "max.poll.records", BATCH,
                "fetch.max.bytes", 16 << 20);
        return new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    private void consume() throws SQLException {
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(); Connection connection = connect()) {
            connection.setAutoCommit(false);
            consumer.subscribe(List.of(topic), new ConsumerRebalanceListener() {
                @Override
                public void onPartitionsRevoked(Collection<TopicPartition> partitions) {}

                @Override
                public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
                    seekToStored(consumer, connection, partitions);
                }
            });
            while (true) {
                ConsumerRecords<byte[], byte[]> records = consumer.poll(Duration.ofMillis(100));
                if (!records.isEmpty()) apply(connection, records);
            }
        }
    }

    /** The database has the offsets; the group's offsets are not used. */
    private static void seekToStored(KafkaConsumer<?, ?> consumer, Connection connection, Collection<TopicPartition> partitions) {
        Map<Integer, Long> stored = new HashMap<>();
        try (Statement statement = connection.createStatement();
                ResultSet rows = statement.executeQuery("SELECT part, next_offset FROM positions")) {
            while (rows.next()) stored.put(rows.getInt(1), rows.getLong(2));
            connection.commit();
        } catch (SQLException e) {
            throw new IllegalStateException(e);
        }
        for (TopicPartition partition : partitions) consumer.seek(partition, stored.getOrDefault(partition.partition(), 0L));
    }

    /** One batch in one transaction. */
    private void apply(Connection connection, ConsumerRecords<byte[], byte[]> records) throws SQLException {
        // Sorted, so that concurrent transactions lock the rows in the same order.
        Map<String, java.util.ArrayList<Event>> events = new TreeMap<>();
        Map<Integer, Long> next = new TreeMap<>();
        for (ConsumerRecord<byte[], byte[]> record : records) {
            next.put(record.partition(), record.offset() + 1);
            try {
                Event event = Event.parse(record.value());
                events.computeIfAbsent(event.subject, id -> new java.util.ArrayList<>()).add(event);
            } catch (IOException e) {
                bad.incrementAndGet(); // opledger would keep it and say why
            }
        }
        Map<String, byte[]> states = states(connection, events.keySet());
        int count = events.size(), at = 0;
        String[] ids = new String[count], documents = new String[count];
        byte[][] folded = new byte[count][];
        for (Map.Entry<String, java.util.ArrayList<Event>> entry : events.entrySet()) {
            Operation operation = Operation.of(entry.getKey(), states.get(entry.getKey()));
            entry.getValue().forEach(operation::apply);
            byte[] document = Document.render(operation);
            ids[at] = entry.getKey();
            documents[at] = document == null ? null : new String(document, StandardCharsets.UTF_8);
            folded[at++] = operation.toBytes();
        }
        upsert(connection, ids, documents, folded);
        move(connection, next);
        connection.commit();
        next.forEach((partition, offset) -> committed.set(partition, offset));
    }

    private static Map<String, byte[]> states(Connection connection, Collection<String> ids) throws SQLException {
        Map<String, byte[]> states = new HashMap<>();
        try (PreparedStatement statement = connection.prepareStatement(STATES)) {
            Array wanted = connection.createArrayOf("text", ids.toArray());
            statement.setArray(1, wanted);
            try (ResultSet rows = statement.executeQuery()) {
                while (rows.next()) states.put(rows.getString(1), rows.getBytes(2));
            }
        }
        return states;
    }

    private static void upsert(Connection connection, String[] ids, String[] documents, byte[][] states) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(UPSERT)) {
            statement.setArray(1, connection.createArrayOf("text", ids));
            statement.setArray(2, connection.createArrayOf("text", documents));
            statement.setArray(3, connection.createArrayOf("bytea", states));
            statement.executeUpdate();
        }
    }

    private static void move(Connection connection, Map<Integer, Long> next) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(MOVE)) {
            for (Map.Entry<Integer, Long> entry : next.entrySet()) {
                statement.setInt(1, entry.getKey());
                statement.setLong(2, entry.getValue());
                statement.addBatch();
            }
            statement.executeBatch();
        }
    }

    private byte[] find(String operationId) throws SQLException {
        PreparedStatement statement = reading.get();
        statement.setString(1, operationId);
        try (ResultSet rows = statement.executeQuery()) {
            String document = rows.next() ? rows.getString(1) : null;
            return document == null ? null : document.getBytes(StandardCharsets.UTF_8);
        }
    }

    private String progress() {
        String offsets = Reads.offsets(committed);
        return "{\"state\":\"RUNNING\",\"readable\":" + offsets + ",\"committed\":" + offsets + ",\"bad\":" + bad + "}";
    }
}
