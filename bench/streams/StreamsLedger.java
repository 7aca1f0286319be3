// usage: StreamsLedger BOOTSTRAP TOPIC at_least_once|exactly_once_v2 FOLDER
//
// A contender: Kafka Streams folds the same events into the same document, keeps it in its
// RocksDB store with a changelog topic, and serves it by interactive queries over HTTP. It keeps no history, no lists, no dead letters and sends no notifications.

import java.util.Map;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicLongArray;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Utils;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StoreQueryParameters;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.TaskMetadata;
import org.apache.kafka.streams.ThreadMetadata;
import org.apache.kafka.streams.errors.InvalidStateStoreException;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.processor.api.ContextualProcessor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.processor.api.RecordMetadata;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.QueryableStoreTypes;
import org.apache.kafka.streams.state.ReadOnlyKeyValueStore;
import org.apache.kafka.streams.state.Stores;

public final class StreamsLedger {
    private static final String STORE = "operations";

    private final AtomicLongArray processed;
    private final AtomicLong bad = new AtomicLong();
    private final ReadOnlyKeyValueStore<String, byte[]>[] stores;
    private KafkaStreams streams;

    @SuppressWarnings({"unchecked", "rawtypes"})
    private StreamsLedger(int partitions) {
        processed = new AtomicLongArray(partitions);
        stores = new ReadOnlyKeyValueStore[partitions];
    }

    public static void main(String[] arguments) throws Exception {
        String bootstrap = arguments[0], topic = arguments[1], guarantee = arguments[2], folder = arguments[3];
        int partitions;
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            partitions = admin.describeTopics(java.util.List.of(topic)).allTopicNames().get().get(topic).partitions().size();
        }
        StreamsLedger ledger = new StreamsLedger(partitions);
        ledger.run(bootstrap, topic, guarantee, folder);
    }

    private void run(String bootstrap, String topic, String guarantee, String folder) throws Exception {
        StreamsBuilder builder = new StreamsBuilder();
        builder.addStateStore(Stores.keyValueStoreBuilder(
                        Stores.persistentKeyValueStore(STORE), Serdes.String(), Serdes.ByteArray())
                .withCachingEnabled());
        builder.stream(topic, Consumed.with(Serdes.ByteArray(), Serdes.ByteArray())).process(Fold::new, STORE);

        streams = new KafkaStreams(builder.build(), settings(bootstrap, topic, guarantee, folder));
        // A contender that continues with one thread less would only look slow.
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            Runtime.getRuntime().halt(1);
            return null;
        });
        Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close()));
        Reads.serve(4, this::find, this::progress);
        streams.start();
    }

    private static Properties settings(String bootstrap, String topic, String guarantee, String folder) {
        Properties settings = new Properties();
        // The changelog topic has this name, too, so each run gets a new one.
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, topic + "-" + ProcessHandle.current().pid());
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
        settings.put(StreamsConfig.STATE_DIR_CONFIG, folder);
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, guarantee);
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 2);
        // Twice the size of opledger's cache of hot operations. A commit flushes dirty entries:
        // often enough that little is folded again after a crash, seldom enough to be cheap.
        settings.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 128L << 20);
        settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 1000);
        settings.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 5000);
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 5000);
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.COMPRESSION_TYPE_CONFIG), "lz4");
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 256 << 10);
        return settings;
    }

    private final class Fold extends ContextualProcessor<byte[], byte[], Void, Void> {
        private KeyValueStore<String, byte[]> store;

        @Override
        public void init(ProcessorContext<Void, Void> context) {
            super.init(context);
            store = context.getStateStore(STORE);
        }

        @Override
        public void process(Record<byte[], byte[]> record) {
            try {
                Event event = Event.parse(record.value());
                Operation operation = Operation.of(event.subject, store.get(event.subject));
                operation.apply(event);
                store.put(event.subject, operation.toBytes());
            } catch (java.io.IOException e) {
                bad.incrementAndGet(); // opledger would keep it and say why
            }
            RecordMetadata at = context().recordMetadata().orElseThrow();
            processed.lazySet(at.partition(), at.offset() + 1);
        }
    }

    // The partition of a key is known, so only one store is queried.
    private byte[] find(String operationId) {
        byte[] key = operationId.getBytes(java.nio.charset.StandardCharsets.UTF_8);
        int partition = Utils.toPositive(Utils.murmur2(key)) % stores.length;
        byte[] state;
        try {
            state = store(partition).get(operationId);
        } catch (InvalidStateStoreException moved) {
            stores[partition] = null;
            state = store(partition).get(operationId);
        }
        return state == null ? null : Document.render(Operation.of(operationId, state));
    }

    private ReadOnlyKeyValueStore<String, byte[]> store(int partition) {
        ReadOnlyKeyValueStore<String, byte[]> store = stores[partition];
        if (store == null) {
            store = streams.store(StoreQueryParameters
                    .fromNameAndType(STORE, QueryableStoreTypes.<String, byte[]>keyValueStore())
                    .withPartition(partition));
            stores[partition] = store;
        }
        return store;
    }

    private String progress() {
        AtomicLongArray committed = new AtomicLongArray(processed.length());
        for (ThreadMetadata thread : streams.metadataForLocalThreads()) {
            for (TaskMetadata task : thread.activeTasks()) {
                for (Map.Entry<TopicPartition, Long> entry : task.committedOffsets().entrySet()) {
                    committed.set(entry.getKey().partition(), entry.getValue());
                }
            }
        }
        return "{\"state\":\"" + streams.state() + "\",\"readable\":" + Reads.offsets(processed)
                + ",\"committed\":" + Reads.offsets(committed) + ",\"bad\":" + bad + "}";
    }
}
