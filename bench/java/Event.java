// One event, read from a structured CloudEvent without a tree in between. Members that
// the fold does not need are skipped. Both contenders in Java share it.

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;
import java.time.LocalDate;

final class Event {
    record Request(String uri, String method, String body) {}

    /** `statusCode` is 0 and `body` null if they were not given. */
    record Response(int statusCode, String body) {}

    private static final JsonFactory JSON = new JsonFactory();

    String id;
    String source;
    /** The type without `opledger.` and `.v1`. */
    String kind;
    String subject;
    long second;
    int nano;

    String clusterId;
    String requestId;
    String subStatus;
    Request request;
    Response response;

    private Event() {}

    /** Throws IOException on anything that is not an event. */
    static Event parse(byte[] json) throws IOException {
        if (json == null) throw new IOException("a tombstone");
        Event event = new Event();
        try (JsonParser parser = JSON.createParser(json)) {
            if (parser.nextToken() != JsonToken.START_OBJECT) throw new IOException("no object");
            event.readAttributes(parser);
        }
        event.check();
        return event;
    }

    private void readAttributes(JsonParser parser) throws IOException {
        while (parser.nextToken() == JsonToken.FIELD_NAME) {
            String name = parser.currentName();
            JsonToken token = parser.nextToken();
            switch (name) {
                case "id" -> id = parser.getText();
                case "source" -> source = parser.getText();
                case "subject" -> subject = parser.getText();
                case "type" -> kind = kind(parser.getText());
                case "time" -> readTime(parser.getText());
                case "data" -> {
                    if (token == JsonToken.START_OBJECT) readData(parser);
                }
                default -> parser.skipChildren();
            }
        }
    }

    private void readData(JsonParser parser) throws IOException {
        while (parser.nextToken() == JsonToken.FIELD_NAME) {
            String name = parser.currentName();
            parser.nextToken();
            switch (name) {
                case "cluster_id" -> clusterId = parser.getValueAsString();
                case "request_id" -> requestId = parser.getValueAsString();
                case "sub_status" -> subStatus = parser.getValueAsString();
                case "request" -> request = readRequest(parser);
                case "response" -> response = readResponse(parser);
                default -> parser.skipChildren();
            }
        }
    }

    private static Request readRequest(JsonParser parser) throws IOException {
        if (parser.currentToken() != JsonToken.START_OBJECT) return null;
        String uri = null, method = null, body = null;
        while (parser.nextToken() == JsonToken.FIELD_NAME) {
            String name = parser.currentName();
            parser.nextToken();
            switch (name) {
                case "uri" -> uri = parser.getValueAsString();
                case "method" -> method = parser.getValueAsString();
                case "body" -> body = parser.getValueAsString();
                default -> parser.skipChildren();
            }
        }
        if (uri == null || method == null) throw new IOException("a request without uri or method");
        return new Request(uri, method, body == null ? "" : body);
    }

    private static Response readResponse(JsonParser parser) throws IOException {
        if (parser.currentToken() != JsonToken.START_OBJECT) return null;
        int statusCode = 0;
        String body = null;
        while (parser.nextToken() == JsonToken.FIELD_NAME) {
            String name = parser.currentName();
            JsonToken token = parser.nextToken();
            switch (name) {
                case "status_code" -> statusCode = token == JsonToken.VALUE_NULL ? 0 : parser.getIntValue();
                case "body" -> body = parser.getValueAsString();
                default -> parser.skipChildren();
            }
        }
        return new Response(statusCode, body);
    }

    private static String kind(String type) throws IOException {
        if (!type.startsWith("opledger.") || !type.endsWith(".v1")) throw new IOException("unknown type " + type);
        return type.substring("opledger.".length(), type.length() - ".v1".length());
    }

    private void check() throws IOException {
        if (id == null || source == null || subject == null || kind == null) throw new IOException("an attribute is missing");
        boolean right = switch (kind) {
            case "operation.created" -> request != null;
            case "operation.started", "operation.progressed", "operation.canceled" -> true;
            case "cluster.request_sent", "rollback.attempted" -> clusterId != null && request != null;
            case "cluster.response_received", "rollback.response_received" -> clusterId != null && response != null;
            case "operation.completed", "operation.failed" -> response != null && response.statusCode != 0;
            default -> false;
        };
        if (!right) throw new IOException("unknown type, or a member is missing: " + kind);
        if (requestId == null) requestId = clusterId;
    }

    // RFC 3339, truncated to nanoseconds. Second 60 counts as the next second.
    private void readTime(String time) throws IOException {
        try {
            long day = LocalDate.of(number(time, 0, 4), number(time, 5, 7), number(time, 8, 10)).toEpochDay();
            second = ((day * 24 + number(time, 11, 13)) * 60 + number(time, 14, 16)) * 60 + number(time, 17, 19);
            int at = 19;
            if (time.charAt(at) == '.') {
                int unit = 100_000_000;
                for (at++; Character.isDigit(time.charAt(at)); at++, unit /= 10) nano += (time.charAt(at) - '0') * unit;
            }
            char sign = time.charAt(at);
            if (sign != 'Z' && sign != 'z') {
                int minutes = number(time, at + 1, at + 3) * 60 + number(time, at + 4, at + 6);
                second -= (sign == '-' ? -minutes : minutes) * 60L;
            }
        } catch (RuntimeException e) {
            throw new IOException("no time: " + time);
        }
    }

    private static int number(String text, int from, int to) {
        return Integer.parseInt(text, from, to, 10);
    }
}
