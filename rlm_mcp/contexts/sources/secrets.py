"""Files that usually hold credentials: skipped unless the user includes them, and listed as skipped.

Files are judged by their names and those of their directories alone, in lower case.
"""

from functools import lru_cache
from pathlib import PurePath

HOLDS_CREDENTIALS = "secret: its name says that it holds credentials"
"""The reason for skipping such a file."""

_NAMES = """
.env .envrc .netrc _netrc .npmrc .pypirc .pgpass pgpass.conf .my.cnf .mylogin.cnf .htpasswd .htdigest
.git-credentials .vault-token .boto .s3cfg .dockercfg .passwd-s3fs .terraformrc terraform.rc .databrickscfg
.fetchmailrc .msmtprc .curlrc .ftpconfig .remote-sync.json sftp-config.json rclone.conf ngrok.yml kaggle.json
kubeconfig kubeconfig.yml kubeconfig.yaml wp-config.php wallet.dat terraform.tfstate.backup
secrets.json secrets.toml secrets.yml secrets.yaml secret.json secret.toml secret.yml secret.yaml
credentials.json credentials.yml credentials.yaml credentials.xml credentials.toml
application_default_credentials.json credentials-config.json
.histfile .zhistory fish_history consolehost_history.txt sitemanager.xml recentservers.xml
.ssh .gnupg .aws .azure .kube .oci .chef .password-store
"""
NAMES = frozenset(_NAMES.split())
"""Files and directories with exactly these names."""

ENDINGS = (
    *(".pem", ".key", ".p8", ".p12", ".pfx", ".pkcs12", ".jks", ".keystore", ".bks", ".kdb", ".kdbx", ".ppk"),
    *(".keychain", ".keychain-db", ".agilekeychain", ".ovpn"),
    *("_rsa", "_dsa", "_ecdsa", "_ed25519", "_accesskeys.csv"),
    *(".env", ".kubeconfig", ".tfstate", ".tfstate.backup", ".tfvars"),
)
BEGINNINGS = (".env.", "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519")
INSIDE_JSON = ("service-account", "service_account", "serviceaccount", "adminsdk", "client_secret")
"""Parts of the names of JSON files with keys of cloud services."""

HARMLESS_ENDINGS = (".pub", ".example", ".sample", ".template", ".dist")
"""Public keys and files to copy from, among those that begin or end like secrets."""

HARMLESS = frozenset({"example.env", "sample.env", "template.env"})

_PATHS = """
.config/gcloud .config/op .config/gh/hosts.yml .config/hub .config/glab-cli/config.yml .config/doctl/config.yaml
.local/share/keyrings .docker/config.json .git/config .git/credentials .cargo/credentials .gem/credentials
.bundle/config .composer/auth.json .nuget/nuget.config .m2/settings.xml .m2/settings-security.xml
.gradle/gradle.properties .ivy2/.credentials .sbt/.credentials .aliyun/config.json .bluemix/config.json
.snowsql/config .huggingface/token huggingface/token .circleci/cli.yml .terraform.d/credentials.tfrc.json
.jupyter/jupyter_server_config.json etc/shadow etc/gshadow etc/master.passwd
"""
PATHS = frozenset(_PATHS.split())
"""Files and directories whose names say it only together with those of the directories above them."""

_LONGEST_PATH = max(path.count("/") for path in PATHS) + 1

COPY_SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".bak", ".backup", ".old", ".orig", ".save", ".swp", "~")
"""A copy of a secret is a secret."""


def is_secret(path: PurePath | str) -> bool:
    """Whether a file usually holds credentials, judged by its name and those of its directories."""
    text = path if isinstance(path, str) else path.as_posix()
    directory, _, name = text.lower().rstrip("/").rpartition("/")
    return (
        _is_secret_name(name)
        or _is_secret_path(directory, name)
        or (directory != "" and is_secret_directory(directory))
    )


@lru_cache(maxsize=1024)
def is_secret_directory(directory: str) -> bool:
    """Whether a directory, or one above it, usually holds credentials."""
    parts = directory.lower().split("/")
    return any(_is_secret_name(part) or _is_secret_path("/".join(parts[:at]), part) for at, part in enumerate(parts))


def _is_secret_path(directory: str, name: str) -> bool:
    above = directory.split("/")[1 - _LONGEST_PATH :] if directory else []
    for copy in {name, _without_copy_suffix(name)}:
        parts = [*above, copy]
        if any("/".join(parts[at:]) in PATHS for at in range(len(parts) - 1)):
            return True
    return name == "config" and "/.git/modules/" in f"/{directory}/"


def _is_secret_name(name: str) -> bool:
    name = _without_copy_suffix(name)
    if name in NAMES:
        return True
    if name in HARMLESS or name.endswith(HARMLESS_ENDINGS):
        return False
    return (
        name.endswith(ENDINGS)
        or name.startswith(BEGINNINGS)
        or (name.startswith(".") and name.endswith("_history"))
        or (name.endswith(".json") and any(part in name for part in INSIDE_JSON))
    )


def _without_copy_suffix(name: str) -> str:
    for suffix in COPY_SUFFIXES:
        name = name.removesuffix(suffix)
    return name
