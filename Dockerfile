# syntax=docker/dockerfile:1

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build
# What scripts/setup installs, less what only tests and scripts use. As a list of its
# own, so that a change of a script does not compile everything anew.
# hadolint ignore=DL3008
RUN apt-get update \
  && apt-get install -y --no-install-recommends \
    build-essential ca-certificates clang cmake libclang-dev libssl-dev pkg-config zlib1g-dev \
  && rm -rf /var/lib/apt/lists/*

# RocksDB and librdkafka take a quarter of an hour to compile. In a layer of their
# own they are compiled again when Cargo.toml or Cargo.lock changes, not with every
# change of the source: so first an empty program with the same dependencies.
# Without line tables all of it is smaller; a backtrace still names functions.
ENV CARGO_PROFILE_RELEASE_DEBUG=0
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY vendor vendor
RUN mkdir -p src bench/load \
  && touch src/lib.rs \
  && echo 'fn main() {}' >src/main.rs \
  && echo 'fn main() {}' >bench/load/main.rs \
  && cargo build --release --locked --bin opledger

# Cargo goes by the time of a file: the true source must be newer than what the
# empty program left behind.
COPY . .
RUN touch src/lib.rs src/main.rs \
  && cargo build --release --locked --bin opledger

FROM debian:bookworm-slim
# Not pinned to a version: a new build is to bring Debian's security updates.
# hadolint ignore=DL3008
RUN apt-get update \
  && apt-get install -y --no-install-recommends ca-certificates libssl3 libstdc++6 zlib1g \
  && rm -rf /var/lib/apt/lists/*

# A fixed number, so that a folder of the host can be given to it beforehand.
RUN groupadd --system --gid 10001 opledger \
  && useradd --system --uid 10001 --gid opledger --no-create-home --home-dir /data --shell /usr/sbin/nologin opledger \
  && install -d -o opledger -g opledger -m 750 /data
COPY --from=build /build/target/release/opledger /usr/local/bin/opledger

ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="opledger" \
  org.opencontainers.image.description="An event-sourced operation ledger: lifecycle events in, one exact document per operation out" \
  org.opencontainers.image.licenses="Apache-2.0" \
  org.opencontainers.image.version="$VERSION" \
  org.opencontainers.image.revision="$REVISION"

# By number, so that it can be seen from outside that it is not root.
USER 10001:10001
WORKDIR /data
# In a container 127.0.0.1 is the container's own: nobody could reach it.
ENV OPLEDGER_DATA=/data \
  OPLEDGER_SERVER__LISTEN=0.0.0.0:8470
VOLUME /data
EXPOSE 8470

# By bash, which is in the image already: one thing less to install and to update.
# Unhealthy is what /readyz says, so also a ledger that has a long log to catch up with.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/${OPLEDGER_SERVER__LISTEN##*:} && printf 'GET /readyz HTTP/1.1\\r\\nhost: localhost\\r\\nconnection: close\\r\\n\\r\\n' >&3 && mapfile -t answer <&3 && printf '%s\\n' \"${answer[0]}\" \"${answer[-1]}\" && [[ ${answer[0]} == 'HTTP/1.1 200 '* ]]"]

ENTRYPOINT ["opledger"]
CMD ["serve"]
