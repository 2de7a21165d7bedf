# rlm-mcp over streamable HTTP for the tenants of a token file, as a user without privileges (docs/serving.md).
#
#   docker build -t rlm-mcp .
#   rlm-mcp token ann >> tokens
#   docker run -p 8765:8765 -e RLM_MCP_BASE_URL -e RLM_MCP_MODEL -e RLM_MCP_API_KEY \
#     -v "$PWD/tokens:/etc/rlm-mcp/tokens:ro" -v "$PWD/texts:/texts:ro" -v rlm-mcp-data:/var/lib/rlm-mcp rlm-mcp
FROM python:3.13-slim AS build
WORKDIR /source
COPY . .
# With `cluster`, its packages, whose versions are not in requirements.lock.
ARG EXTRA=
RUN python -m venv /opt/rlm-mcp \
    && /opt/rlm-mcp/bin/pip install --no-cache-dir --require-hashes -r requirements.lock \
    && /opt/rlm-mcp/bin/pip install --no-cache-dir --no-deps . \
    && { test -z "$EXTRA" || /opt/rlm-mcp/bin/pip install --no-cache-dir ".[$EXTRA]"; }

FROM python:3.13-slim
COPY --from=build /opt/rlm-mcp /opt/rlm-mcp
RUN useradd --system --uid 10001 --no-create-home rlm-mcp \
    && mkdir -p /var/lib/rlm-mcp /var/cache/rlm-mcp /texts \
    && chown rlm-mcp: /var/lib/rlm-mcp /var/cache/rlm-mcp
ENV PATH=/opt/rlm-mcp/bin:$PATH \
    HOME=/var/lib/rlm-mcp \
    RLM_MCP_DATA_DIR=/var/lib/rlm-mcp \
    RLM_MCP_CACHE_DIR=/var/cache/rlm-mcp
USER 10001
# Compiles the sandbox, so that the first start of a container takes no longer than the others.
RUN python -c "import os, pathlib, wasm_runtime; wasm_runtime.Runtime(pathlib.Path(os.environ['RLM_MCP_CACHE_DIR'])).close()"
VOLUME /var/lib/rlm-mcp
EXPOSE 8765
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8765/health', timeout=4)"]
ENTRYPOINT ["rlm-mcp", "serve", "--http", "0.0.0.0:8765", "--token-file", "/etc/rlm-mcp/tokens", "--roots", "/texts"]
