"""`serve` and `token`: runs the MCP server, and creates tokens for access over HTTP."""

import argparse
import sys
from functools import partial

from rlm_mcp.cli.commands.registry import ANSWERED, Commands, settings_from


def add_commands(commands: Commands) -> None:
    """Registers `serve` and `token`."""
    parser = commands.add("serve", serve, "serve MCP on stdio or over HTTP")
    parser.add_argument("--http", metavar="HOST:PORT", help="serve streamable HTTP instead of stdio")
    parser.add_argument(
        "--token-file", metavar="FILE", help="a file of the bearer tokens to accept over HTTP, one NAME SHA256 per line"
    )
    parser.add_argument("--oauth-issuer", metavar="URL", help="accept access tokens (JWT) of this authorization server")
    parser.add_argument(
        "--oauth-resource", metavar="URL", help="the URL of this server, for which the tokens must be issued"
    )
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="a value of the Host header to accept"
    )
    token = commands.add("token", make_token, "create a bearer token for serve --http")
    token.add_argument("name", help="the tenant whose contexts and runs the token gives access to")


def serve(options: argparse.Namespace) -> int:
    """Serves until the client disconnects or a signal arrives."""
    from rlm_mcp.workspace.process_tuning import limit_malloc_arenas
    from rlm_mcp.workspace.telemetry import export_spans, flush

    limit_malloc_arenas()
    settings = settings_from(options)
    spans = export_spans() if settings.traces else None
    if options.http:
        from rlm_mcp.server.transports.http import serve_http

        serve_http(
            settings,
            options.http,
            token_file=options.token_file,
            oauth_issuer=options.oauth_issuer,
            oauth_resource=options.oauth_resource,
            allowed_hosts=tuple(options.allow_host),
            at_end=partial(flush, spans),
        )
        return ANSWERED
    from rlm_mcp.server.transports.stdio import serve_stdio
    from rlm_mcp.workspace.workspace import open_workspace

    serve_stdio(lambda: open_workspace(settings, warm=True, serves=True), at_end=partial(flush, spans))
    return ANSWERED


def make_token(options: argparse.Namespace) -> int:
    """Prints the line for the token file to stdout and the token itself, once, to stderr."""
    from rlm_mcp.server.transports.auth import digest_of, new_token
    from rlm_mcp.server.transports.tenant_names import check_tenant_name

    name = check_tenant_name(options.name)
    token = new_token()
    print(f"{name} {digest_of(token)}")
    print(f"Add the line above to the token file. The token, which is shown only once: {token}", file=sys.stderr)
    return ANSWERED
