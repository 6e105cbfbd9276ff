# syntax=docker/dockerfile:1
# processor with pmacctd and nfacctd: one process that starts, watches and ends the other two.
#
# Debian trixie carries pmacct 1.7.8, the first version without the fault that prints old TIMESTAMP_MIN/MAX when a flow comes back.

FROM rust:1-trixie AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends libpcap-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The commit that `processor --version` names: docker build --build-arg PROCESSOR_COMMIT="$(git rev-parse --short=12 HEAD)" ...
ARG PROCESSOR_COMMIT
RUN cargo build --release --locked --bin processor && strip --strip-debug target/release/processor

FROM debian:trixie-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates libpcap0.8t64 pmacct tzdata \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/processor /usr/local/bin/processor
COPY packaging/pmacct.conf /etc/pmacct/pmacct.conf
ENV PROCESSOR_CONFIG=/etc/pmacct/pmacct.conf \
    PROCESSOR_DATA_DIR=/data \
    PROCESSOR_SOURCE=pmacct
VOLUME /data
LABEL org.opencontainers.image.title="processor" \
      org.opencontainers.image.description="Collects network flows and delivers them as rolled .csv.gz files to an FTP server" \
      org.opencontainers.image.licenses="MIT"
# pmacctd opens the interface; nfacctd's receive buffer is raised beyond the host's bound.
# docker run --net=host --cap-add NET_RAW --cap-add NET_ADMIN --user root ...
USER root
# The daemons need up to 4.2 s to flush, the last upload pass the rest of processor_shutdown_timeout_sec.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 \
    CMD ["/usr/local/bin/processor", "health", "-data-dir", "/data"]
ENTRYPOINT ["/usr/local/bin/processor"]
