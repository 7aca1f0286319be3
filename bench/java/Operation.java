// The state of one operation: registers that keep the earliest or the latest value by the
// order key (time, source, id), and lanes of them. So neither the order of arrival nor a
// repeated event affects the result. Also its compact binary form, which is stored.

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

final class Operation {
    record Key(long second, int nano, String source, String id) implements Comparable<Key> {
        @Override
        public int compareTo(Key other) {
            int order = Long.compare(second, other.second);
            if (order == 0) order = Integer.compare(nano, other.nano);
            if (order == 0) order = byBytes(source, other.source);
            return order != 0 ? order : byBytes(id, other.id);
        }
    }

    record Ending(String status, Event.Response response) {}

    static final class Register<V> {
        Key key;
        V value;

        boolean isSet() {
            return key != null;
        }

        void earliest(Key offered, V of) {
            if (key == null || compare(offered, of) < 0) set(offered, of);
        }

        void latest(Key offered, V of) {
            if (key == null || compare(offered, of) > 0) set(offered, of);
        }

        // If the keys are equal, the texts of the values decide.
        private int compare(Key offered, V of) {
            int order = offered.compareTo(key);
            return order != 0 ? order : byBytes(Document.canonical(of), Document.canonical(value));
        }

        void set(Key offered, V of) {
            key = offered;
            value = of;
        }
    }

    static final class Lane {
        final String clusterId;
        final String requestId;
        final Register<Event.Request> request = new Register<>();
        final Register<Event.Response> response = new Register<>();

        Lane(String clusterId, String requestId) {
            this.clusterId = clusterId;
            this.requestId = requestId;
        }

        boolean is(String clusterId, String requestId) {
            return this.clusterId.equals(clusterId) && this.requestId.equals(requestId);
        }
    }

    final String id;
    boolean begun;
    /** Of the latest event. */
    long lastSecond = Long.MIN_VALUE;
    int lastNano;
    final Register<Event.Request> created = new Register<>();
    final Register<Ending> ended = new Register<>();
    final Register<String> subStatus = new Register<>();
    /** Few, so a linear search is enough. */
    final List<Lane> sent = new ArrayList<>(4);
    final List<Lane> rolledBack = new ArrayList<>(0);

    Operation(String id) {
        this.id = id;
    }

    void apply(Event event) {
        Key key = new Key(event.second, event.nano, event.source, event.id);
        if (key.second > lastSecond || key.second == lastSecond && key.nano > lastNano) {
            lastSecond = key.second;
            lastNano = key.nano;
        }
        switch (event.kind) {
            case "operation.created" -> created.earliest(key, event.request);
            case "operation.started" -> begun = true;
            case "operation.progressed" -> subStatus.latest(key, event.subStatus);
            case "operation.completed", "operation.failed" -> {
                Event.Response given = event.response;
                Event.Response response = new Event.Response(given.statusCode(), given.body() == null ? "" : given.body());
                ended.earliest(key, new Ending(event.kind.substring("operation.".length()), response));
            }
            case "operation.canceled" -> ended.earliest(key, new Ending("canceled", null));
            default -> applyToLane(key, event);
        }
    }

    private void applyToLane(Key key, Event event) {
        begun = true;
        boolean ofCluster = event.kind.startsWith("cluster.");
        Lane lane = lane(ofCluster ? sent : rolledBack, event.clusterId, event.requestId);
        boolean opens = event.kind.equals("cluster.request_sent") || event.kind.equals("rollback.attempted");
        if (opens) lane.request.earliest(key, event.request);
        // A rollback attempt may already contain its response.
        if (event.response != null && !event.kind.equals("cluster.request_sent")) lane.response.latest(key, event.response);
    }

    private static Lane lane(List<Lane> lanes, String clusterId, String requestId) {
        for (Lane lane : lanes) if (lane.is(clusterId, requestId)) return lane;
        Lane lane = new Lane(clusterId, requestId);
        lanes.add(lane);
        return lane;
    }

    /** Java compares strings by UTF-16 units, which differs above the surrogates. */
    static int byBytes(String a, String b) {
        if (a.equals(b)) return 0;
        return Arrays.compareUnsigned(a.getBytes(StandardCharsets.UTF_8), b.getBytes(StandardCharsets.UTF_8));
    }

    byte[] toBytes() {
        Bytes.Out out = new Bytes.Out();
        out.flag(begun);
        out.number(lastSecond);
        out.number(lastNano);
        if (out.isSet(created)) out.request(created.value);
        if (out.isSet(ended)) {
            out.text(ended.value.status);
            out.response(ended.value.response);
        }
        if (out.isSet(subStatus)) out.text(subStatus.value);
        out.lanes(sent);
        out.lanes(rolledBack);
        return out.toBytes();
    }

    static Operation of(String id, byte[] bytes) {
        Operation operation = new Operation(id);
        if (bytes == null) return operation;
        Bytes.In in = new Bytes.In(bytes);
        operation.begun = in.flag();
        operation.lastSecond = in.number();
        operation.lastNano = (int) in.number();
        Key key = in.key();
        if (key != null) operation.created.set(key, in.request());
        key = in.key();
        if (key != null) operation.ended.set(key, new Ending(in.text(), in.response()));
        key = in.key();
        if (key != null) operation.subStatus.set(key, in.text());
        in.lanes(operation.sent);
        in.lanes(operation.rolledBack);
        return operation;
    }
}
