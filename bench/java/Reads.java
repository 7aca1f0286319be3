// The HTTP side of a contender: documents, and its progress.

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicLongArray;
import java.util.function.Supplier;

final class Reads {
    interface Lookup {
        /** The document, or null if there is none. */
        byte[] find(String operationId) throws Exception;
    }

    private static final String OPERATIONS = "/v1/operations/";

    private Reads() {}

    /** Serves, and prints the address as the first line of the program's output. */
    static void serve(int threads, Lookup lookup, Supplier<String> progress) throws IOException {
        // Otherwise responses wait for the client's delayed acknowledgement.
        System.setProperty("sun.net.httpserver.nodelay", "true");
        System.setProperty("sun.net.httpserver.maxIdleConnections", "1000");
        HttpServer server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
        server.createContext(OPERATIONS, exchange -> {
            String id = exchange.getRequestURI().getPath().substring(OPERATIONS.length());
            try {
                byte[] document = lookup.find(id);
                answer(exchange, document == null ? 404 : 200, document == null ? new byte[] {'{', '}'} : document);
            } catch (Exception e) {
                answer(exchange, 503, e.toString().getBytes(StandardCharsets.UTF_8));
            }
        });
        server.createContext("/progress", exchange ->
                answer(exchange, 200, progress.get().getBytes(StandardCharsets.UTF_8)));
        server.setExecutor(Executors.newFixedThreadPool(threads));
        server.start();
        System.out.println("serving at http://127.0.0.1:" + server.getAddress().getPort());
    }

    private static void answer(HttpExchange exchange, int status, byte[] body) throws IOException {
        try (exchange) {
            exchange.getRequestBody().readAllBytes();
            exchange.getResponseHeaders().set("content-type", "application/json");
            exchange.sendResponseHeaders(status, body.length);
            exchange.getResponseBody().write(body);
        }
    }

    /** The offset after the last record of each partition, as a JSON object. */
    static String offsets(AtomicLongArray next) {
        StringBuilder out = new StringBuilder("{");
        for (int partition = 0; partition < next.length(); partition++) {
            if (partition > 0) out.append(',');
            out.append('"').append(partition).append("\":").append(next.get(partition));
        }
        return out.append('}').toString();
    }
}
