// The stored form of an operation: numbers of variable length, texts as UTF-8 after their
// length. No member names, no escapes.

import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.List;

final class Bytes {
    static final class Out {
        private byte[] bytes = new byte[2048];
        private int length;

        private void room(int more) {
            if (length + more > bytes.length) bytes = Arrays.copyOf(bytes, Math.max(2 * bytes.length, length + more));
        }

        void flag(boolean value) {
            room(1);
            bytes[length++] = (byte) (value ? 1 : 0);
        }

        void number(long value) {
            room(10);
            long rest = value << 1 ^ value >> 63; // small negative numbers stay short
            for (; (rest & ~0x7FL) != 0; rest >>>= 7) bytes[length++] = (byte) (rest | 0x80);
            bytes[length++] = (byte) rest;
        }

        /** Length plus one, so that 0 means null and not an empty text. */
        void text(String text) {
            if (text == null) {
                number(0);
                return;
            }
            byte[] utf8 = text.getBytes(StandardCharsets.UTF_8);
            number(utf8.length + 1);
            room(utf8.length);
            System.arraycopy(utf8, 0, bytes, length, utf8.length);
            length += utf8.length;
        }

        boolean isSet(Operation.Register<?> register) {
            flag(register.isSet());
            if (!register.isSet()) return false;
            number(register.key.second());
            number(register.key.nano());
            text(register.key.source());
            text(register.key.id());
            return true;
        }

        void request(Event.Request request) {
            text(request.uri());
            text(request.method());
            text(request.body());
        }

        void response(Event.Response response) {
            flag(response != null);
            if (response == null) return;
            number(response.statusCode());
            text(response.body());
        }

        void lanes(List<Operation.Lane> lanes) {
            number(lanes.size());
            for (Operation.Lane lane : lanes) {
                text(lane.clusterId);
                text(lane.requestId.equals(lane.clusterId) ? null : lane.requestId);
                if (isSet(lane.request)) request(lane.request.value);
                if (isSet(lane.response)) response(lane.response.value);
            }
        }

        byte[] toBytes() {
            return Arrays.copyOf(bytes, length);
        }
    }

    static final class In {
        private final byte[] bytes;
        private int at;

        In(byte[] bytes) {
            this.bytes = bytes;
        }

        boolean flag() {
            return bytes[at++] != 0;
        }

        long number() {
            long value = 0;
            for (int shift = 0; ; shift += 7) {
                byte next = bytes[at++];
                value |= (next & 0x7FL) << shift;
                if (next >= 0) return value >>> 1 ^ -(value & 1);
            }
        }

        String text() {
            int length = (int) number() - 1;
            if (length < 0) return null;
            String text = new String(bytes, at, length, StandardCharsets.UTF_8);
            at += length;
            return text;
        }

        Operation.Key key() {
            return flag() ? new Operation.Key(number(), (int) number(), text(), text()) : null;
        }

        Event.Request request() {
            return new Event.Request(text(), text(), text());
        }

        Event.Response response() {
            return flag() ? new Event.Response((int) number(), text()) : null;
        }

        void lanes(List<Operation.Lane> lanes) {
            for (long left = number(); left > 0; left--) {
                String clusterId = text(), requestId = text();
                Operation.Lane lane = new Operation.Lane(clusterId, requestId == null ? clusterId : requestId);
                Operation.Key key = key();
                if (key != null) lane.request.set(key, request());
                key = key();
                if (key != null) lane.response.set(key, response());
                lanes.add(lane);
            }
        }
    }
}
