"""Files that usually hold credentials: skipped unless the user includes them, and listed as skipped."""

from functools import cache
from pathlib import PurePath

from pathspec import GitIgnoreSpec

HOLDS_CREDENTIALS = "secret: its name says that it holds credentials"
"""The reason for skipping such a file."""

PATTERNS = """
.env
.env.*
!.env.example
!.env.sample
!.env.template
.envrc
*.pem
*.key
*.p12
*.pfx
*.jks
*.keystore
*.kdbx
*.ppk
id_rsa*
id_dsa*
id_ecdsa*
id_ed25519*
!id_*.pub
.ssh/
.gnupg/
.aws/
.azure/
.config/gcloud/
.kube/
.docker/config.json
.netrc
_netrc
.npmrc
.pypirc
.pgpass
.my.cnf
.htpasswd
.git-credentials
.git/config
.terraform.d/credentials*
*.tfstate
secrets.y*ml
credentials.json
service-account*.json
"""


@cache
def _spec() -> GitIgnoreSpec:
    return GitIgnoreSpec.from_lines(PATTERNS.splitlines())


def is_secret(path: PurePath | str) -> bool:
    """Whether a file usually holds credentials, judged by its name and those of its directories."""
    return _spec().match_file(str(path).lstrip("/"))
