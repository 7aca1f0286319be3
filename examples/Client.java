// usage: Client URL OPERATION_ID   (nothing but Java 17 or later: publish, watch, wait)

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Instant;
import java.util.UUID;
import java.util.regex.Pattern;

public class Client {
    static final HttpClient http = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
    // A program of more than a page takes its JSON library.
    static final Pattern STATUS = Pattern.compile("\"status\":\"([a-z]+)\"");
    static String base, operation;

    static HttpRequest.Builder document() {
        return HttpRequest.newBuilder(URI.create(base + "/v1/operations/" + operation));
    }

    static String status(String document) {
        var found = STATUS.matcher(document);
        return found.find() ? found.group(1) : "";
    }

    static void publish(String kind, String data) throws Exception {
        var event = """
            {"specversion": "1.0", "id": "%s", "source": "/workers/example", "type": "opledger.%s.v1",
             "subject": "%s", "time": "%s", "data": %s}""".formatted(UUID.randomUUID(), kind, operation, Instant.now(), data);
        // Where this is answered with 202, the event is durable. Sending the same event again is harmless.
        var request = HttpRequest.newBuilder(URI.create(base + "/v1/events"))
            .header("content-type", "application/cloudevents+json").POST(HttpRequest.BodyPublishers.ofString(event)).build();
        var answer = http.send(request, BodyHandlers.ofString());
        if (answer.statusCode() != 202) throw new IllegalStateException(answer.body());
    }

    /** The document once the operation has ended, also if it does not exist yet. */
    static String await() throws Exception {
        for (String etag = null; ; ) {
            var request = document().header("prefer", "wait=30");
            if (etag != null) request.header("if-none-match", etag);
            var answer = http.send(request.build(), BodyHandlers.ofString());
            if (answer.statusCode() == 304 || answer.statusCode() == 404) continue;
            if (answer.statusCode() != 200) throw new IllegalStateException(answer.body());
            etag = answer.headers().firstValue("etag").orElse(null);
            switch (status(answer.body())) {
                case "completed", "failed", "canceled" -> { return answer.body(); }
                default -> { }
            }
        }
    }

    /** Every state until the end. After an error: once more, with Last-Event-ID. */
    static void watch() {
        try {
            var request = document().header("accept", "text/event-stream").build();
            var lines = http.send(request, BodyHandlers.ofLines()).body().iterator();
            for (var kind = ""; lines.hasNext(); ) {
                var line = lines.next();
                if (line.startsWith("event: ")) kind = line.substring(7);
                if (line.startsWith("data: ") && kind.equals("document")) System.out.println("watched: " + status(line));
            }
        } catch (Exception error) {
            throw new IllegalStateException(error);
        }
    }

    public static void main(String[] args) throws Exception {
        if (args.length != 2) {
            System.err.println("usage: Client URL OPERATION_ID");
            System.exit(1);
        }
        base = args[0];
        operation = args[1];
        var watcher = new Thread(Client::watch);
        watcher.start();
        publish("operation.created", """
            {"request": {"uri": "/v1/slices/A", "method": "PUT", "body": "{}"}}""");
        publish("operation.completed", """
            {"response": {"status_code": 200}}""");
        System.out.println("waited: " + status(await()));
        watcher.join();
    }
}
