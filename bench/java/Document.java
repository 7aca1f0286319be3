// The operation document as JSON, and the canonical text that decides between values with
// equal order keys.

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonGenerator;
import com.fasterxml.jackson.core.io.JsonStringEncoder;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.time.LocalDateTime;
import java.time.ZoneOffset;
import java.time.format.DateTimeFormatter;
import java.util.Comparator;
import java.util.List;

final class Document {
    private static final JsonFactory JSON = new JsonFactory();
    private static final DateTimeFormatter WRITTEN = DateTimeFormatter.ofPattern("yyyyMMdd HHmmss");

    private Document() {}

    /** Null until a creation of the operation has arrived. */
    static byte[] render(Operation operation) {
        if (!operation.created.isSet()) return null;
        ByteArrayOutputStream out = new ByteArrayOutputStream(2048);
        try (JsonGenerator json = JSON.createGenerator(out)) {
            write(operation, json);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
        return out.toByteArray();
    }

    private static void write(Operation operation, JsonGenerator json) throws IOException {
        Operation.Ending ended = operation.ended.value;
        String status = ended != null ? ended.status() : operation.begun ? "executing" : "unexecuted";
        json.writeStartObject();
        json.writeStringField("operation_id", operation.id);
        json.writeStringField("occurred_time", time(operation.created.key.second()));
        json.writeStringField("last_update_time", time(ended != null ? operation.ended.key.second() : operation.lastSecond));
        json.writeStringField("status", status);
        if (status.equals("executing") && operation.subStatus.value != null) {
            json.writeStringField("sub_status", operation.subStatus.value);
        }
        write("request", operation.created.value, json);
        if (ended != null && ended.response() != null) write("response", ended.response(), json);
        List<Operation.Lane> sent = shown(operation.sent);
        write(sent, json);
        List<Operation.Lane> rolledBack = shown(operation.rolledBack);
        if (!rolledBack.isEmpty()) {
            json.writeObjectFieldStart("rollbacks");
            json.writeStringField("result", result(rolledBack));
            json.writeStringField("occurred_time", time(rolledBack.get(0).request.key.second()));
            // The sort is stable: lanes without a request stay in the order of their attempts.
            rolledBack.sort(Comparator.comparingInt(lane -> place(lane, sent)));
            write(rolledBack, json);
            json.writeEndObject();
        }
        json.writeEndObject();
    }

    /** Lanes with a request, ordered by the first request. */
    private static List<Operation.Lane> shown(List<Operation.Lane> lanes) {
        List<Operation.Lane> shown = new java.util.ArrayList<>(lanes);
        shown.removeIf(lane -> !lane.request.isSet());
        shown.sort((a, b) -> {
            int order = a.request.key.compareTo(b.request.key);
            if (order == 0) order = Operation.byBytes(a.clusterId, b.clusterId);
            return order != 0 ? order : Operation.byBytes(a.requestId, b.requestId);
        });
        return shown;
    }

    private static int place(Operation.Lane rollback, List<Operation.Lane> sent) {
        int at = 0;
        while (at < sent.size() && !sent.get(at).is(rollback.clusterId, rollback.requestId)) at++;
        return at;
    }

    private static String result(List<Operation.Lane> rolledBack) {
        boolean open = false;
        for (Operation.Lane lane : rolledBack) {
            int code = lane.response.value == null ? 0 : lane.response.value.statusCode();
            if (code != 0 && code / 100 != 2) return "failed";
            if (code == 0) open = true;
        }
        return open ? "none" : "completed";
    }

    private static void write(List<Operation.Lane> lanes, JsonGenerator json) throws IOException {
        json.writeArrayFieldStart("target_clusters");
        for (Operation.Lane lane : lanes) {
            json.writeStartObject();
            json.writeStringField("cluster_id", lane.clusterId);
            write("request", lane.request.value, json);
            if (lane.response.isSet()) write("response", lane.response.value, json);
            json.writeEndObject();
        }
        json.writeEndArray();
    }

    private static void write(String name, Event.Request request, JsonGenerator json) throws IOException {
        json.writeObjectFieldStart(name);
        json.writeStringField("uri", request.uri());
        json.writeStringField("method", request.method());
        json.writeStringField("body", request.body());
        json.writeEndObject();
    }

    private static void write(String name, Event.Response response, JsonGenerator json) throws IOException {
        json.writeObjectFieldStart(name);
        if (response.statusCode() != 0) json.writeNumberField("status_code", response.statusCode());
        if (response.body() != null) json.writeStringField("body", response.body());
        json.writeEndObject();
    }

    private static String time(long second) {
        return LocalDateTime.ofEpochSecond(second, 0, ZoneOffset.UTC).format(WRITTEN);
    }

    /** A register's value in RFC 8785: members in the order of their names. */
    static String canonical(Object value) {
        if (value == null) return "null";
        if (value instanceof String text) return quoted(text);
        if (value instanceof Event.Request request) {
            return "{\"body\":" + quoted(request.body()) + ",\"method\":" + quoted(request.method())
                    + ",\"uri\":" + quoted(request.uri()) + "}";
        }
        if (value instanceof Event.Response response) {
            String body = response.body() == null ? "" : "\"body\":" + quoted(response.body());
            String code = response.statusCode() == 0 ? "" : "\"status_code\":" + response.statusCode();
            return "{" + body + (body.isEmpty() || code.isEmpty() ? "" : ",") + code + "}";
        }
        Operation.Ending ending = (Operation.Ending) value;
        String response = ending.response() == null ? "" : "\"response\":" + canonical(ending.response()) + ",";
        return "{" + response + "\"status\":" + quoted(ending.status()) + "}";
    }

    private static String quoted(String text) {
        // Jackson writes control characters with capital hex digits, RFC 8785 with small ones.
        StringBuilder out = new StringBuilder(text.length() + 2).append('"');
        char[] escaped = JsonStringEncoder.getInstance().quoteAsString(text);
        for (int i = 0; i < escaped.length; i++) {
            if (escaped[i] == '\\' && escaped[i + 1] == 'u') {
                out.append(new String(escaped, i, 6).toLowerCase());
                i += 5;
            } else if (escaped[i] == '\\') {
                out.append(escaped[i]).append(escaped[++i]);
            } else {
                out.append(escaped[i]);
            }
        }
        return out.append('"').toString();
    }
}
